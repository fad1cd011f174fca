"""What is on disk: headers, vocabulary tensors, donors, tokenizers, unions."""
