"""The only place that changes anything of mergekit's, or touches what is private to it."""
