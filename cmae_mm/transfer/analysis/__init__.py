"""What an encoder has learnt, seen without labels: attention, similarity of layers, dimensions in use."""
