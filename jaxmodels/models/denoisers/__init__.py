"""Models that predict noise, velocity or data from a noisy canvas; no cache, no order of tokens."""
