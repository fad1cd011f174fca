"""Loops over arrays: compiled with Numba where it is installed, kept on disk, spread over threads."""
