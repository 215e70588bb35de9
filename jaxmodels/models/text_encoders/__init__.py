"""Encoders of texts: what denoisers are conditioned on. They read a text whole and generate nothing."""
