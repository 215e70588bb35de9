"""Thinking of a fixed length: left at the first moment with so many tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding.thinking import AtTokens, Thought, TokenBudget


def leaves(policy, tokens):
    """The counts at which a segment of these tokens would be left."""
    thought = Thought(
        token=jnp.asarray(tokens), count=jnp.arange(1, len(tokens) + 1), logits=jnp.zeros((1, 2)), streams={}
    )
    score, _ = policy.look(thought, policy.begin(len(tokens)))
    return (np.flatnonzero(np.asarray(score > policy.threshold)) + 1).tolist()


def test_it_is_left_at_the_first_moment_with_so_many_tokens():
    text = [5, 1, 5, 1, 1, 5, 1]
    assert leaves(TokenBudget(tokens=3), text) == [3, 4, 5, 6, 7]
    assert leaves(TokenBudget(tokens=4, moments=AtTokens((5,))), text) == [6]
    assert leaves(TokenBudget(tokens=8), text) == []
    many = [1] * 5000
    assert leaves(TokenBudget(tokens=4999), many) == [4999, 5000]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"tokens must be a whole number >= 1 .*, got 0"):
        TokenBudget(tokens=0)
