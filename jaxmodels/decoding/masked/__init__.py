"""Masked generation: unknown tokens are filled in, several at a time and in any order, block by block."""
