"""`mergekit-omp inspect`: what a transplant will do, known from tokenizers and headers alone."""
