"""What a transplant did, for people and programs to read."""
