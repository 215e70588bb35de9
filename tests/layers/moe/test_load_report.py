import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.moe import Routing
from jaxmodels.layers.moe.report import chunk_sparsity, format_report, load_report

# Two rows of four tokens, two slots each, four experts; 4 stands for an empty slot.
EXPERTS = np.asarray([[[0, 1], [0, 1], [0, 2], [0, 4]], [[0, 1], [0, 1], [2, 2], [3, 3]]], np.int32)
VALID = np.asarray([[True] * 4, [True, True, False, False]])


def routing(valid=VALID):
    flat = jnp.zeros((2, 4, 4))
    valid = None if valid is None else jnp.asarray(valid)
    return Routing(jnp.asarray(EXPERTS), jnp.ones((2, 4, 2)), flat, flat, valid)


def test_load_counts_the_slots_of_real_tokens():
    report = load_report(routing())
    assert report.load == (6, 4, 1, 0)
    assert report.tokens == 6
    assert report.unused == (3,)
    np.testing.assert_allclose(report.per_token, 11 / 6)
    np.testing.assert_allclose(report.busiest, 6 / (11 / 4))
    shares = np.asarray([6, 4, 1]) / 11
    np.testing.assert_allclose(report.balance, -(shares * np.log(shares)).sum() / np.log(4))


def test_chunk_sparsity_is_the_share_of_experts_that_a_chunk_leaves_unused():
    # Chunks of two tokens use {0, 1}, {0, 2}; {0, 1} and, as padding is left out, {}.
    np.testing.assert_allclose(chunk_sparsity(routing(), 2), 1 - (2 + 2 + 2 + 0) / 16)
    np.testing.assert_allclose(chunk_sparsity(routing(None), 3), 1 - (3 + 3) / 8)
    with pytest.raises(ValueError, match="between 1 and 4, a row's tokens; got 5"):
        chunk_sparsity(routing(), 5)


def test_the_text_has_a_line_per_layer():
    lines = format_report({"1": load_report(routing()), "3": load_report(routing(None))}).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["1", "1.83", "2.18", "0.661", "1"]
