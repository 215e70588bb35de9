"""Diffusion: loops that turn noise into latents, made of samplers, guidance and caches."""
