"""What a merge leaves beside the weights: the record, facts on rows, the card, the summary."""
