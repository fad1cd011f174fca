"""Training the rows that a transplant approximated, and nothing else: what `heal` does."""
