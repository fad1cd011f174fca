"""The subcommands of `mergekit-omp`, one a file."""
