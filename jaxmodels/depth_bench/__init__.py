"""What policies of depth save of a model's time, and what of its predictions they keep."""
