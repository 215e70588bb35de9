"""Normalising flows: models that turn images into noise step by step, and back."""
