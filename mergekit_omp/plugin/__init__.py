"""Connects the package with mergekit: the only place that patches it or uses its private parts."""
