"""What the methods are worth: real merges of small trained models, scored on held-out text.

Run `python -m benchmarks.quality --help` from the repository's root.
"""
