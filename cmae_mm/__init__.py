"""cmae_mm: how well does a self-supervised ViT transfer?

Importing the package does no work; each room imports what it needs.
"""

__version__ = "0.1.0"
