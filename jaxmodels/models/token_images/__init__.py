"""Models that fill in grids of codes: images of discrete tokens, under a text or a class."""
