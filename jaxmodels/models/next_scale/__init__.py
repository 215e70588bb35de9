"""Models that make an image scale by scale, from coarse to fine."""
