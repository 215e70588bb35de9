"""Training of image models over codes: an autoencoder with a codebook, then a model of its codes."""
