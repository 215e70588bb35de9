"""Training of next-scale models: an autoencoder of several scales, then a model of its codes."""
