"""Steps of DiffusionGemma's rules on shared logits, against transformers and diffusers."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from masked_rules import seen_of

from jaxmodels.decoding.masked.unmask import EntropyBounded, Tempered, Towards

STEPS, VOCAB, LENGTH = 6, 11, 7


def logits_of(seed, scale=4.0):
    return scale * np.random.default_rng(seed).standard_normal((3, LENGTH, VOCAB)).astype(np.float32)
