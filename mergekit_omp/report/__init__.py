"""`mergekit-omp report`: what a transplant did, as a page or in Markdown."""
