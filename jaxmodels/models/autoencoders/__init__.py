"""Models between pixels and what generators work on: grids of codes, or of latent numbers."""
