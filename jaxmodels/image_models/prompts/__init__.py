"""From prompts to what denoisers are conditioned on: one small file for each pipeline's way."""
