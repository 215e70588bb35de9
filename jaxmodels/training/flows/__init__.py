"""Training of flows by their likelihood."""
