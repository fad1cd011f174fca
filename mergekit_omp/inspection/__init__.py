"""`mergekit-omp inspect`: what a swap will do, known from tokenizers and headers alone."""
