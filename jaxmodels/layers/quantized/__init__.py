"""Weights that are held in few bits: what they are, the formats they come in, and products with them."""
