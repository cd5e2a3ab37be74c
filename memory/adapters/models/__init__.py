"""Embedders and tokenizers. Importing this package does not import torch."""
