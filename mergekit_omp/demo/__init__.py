"""A demonstration on two small models that it trains itself: `mergekit-omp demo`."""
