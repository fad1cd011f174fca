"""`mergekit-omp compare`: which method suits two models best, by a text and without an output."""
