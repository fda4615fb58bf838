"""Layers that pretraining and transfer share."""
