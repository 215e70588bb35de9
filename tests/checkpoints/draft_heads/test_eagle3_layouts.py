"""EAGLE-3 heads load from and go to both published forms, and heads for other targets are refused."""

import dataclasses

import jax
import numpy as np
import pytest
from draft_heads import NORM, eagle3_drafter
from model_helpers import D_MODEL, VOCAB, attention, decoder
from strategy_helpers import architecture

import jaxmodels as jm
from jaxmodels.layers.norm import RMSNorm

VARIANTS = {
    "plain": {},
    "known": {"known": 11},
    "normed residual": {"norm_before_residual": True, "known": 11},
    "own embedding": {"own_embedding": True},
}
OF_SPECULATORS = {
    "joint norm": {"stream_norm": RMSNorm(dim=3 * D_MODEL), "stream_norms": "joint"},
    "norm of each": {"stream_norm": NORM, "stream_norms": "each"},
    "normed output": {"norm_output": True},
}


def assert_same_drafter(ours, theirs):
    assert ours.head == theirs.head
    assert ours.size == theirs.size
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    jax.tree.map(np.testing.assert_array_equal, ours.token_ids, theirs.token_ids)


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        *((layout, fields) for layout in ("eagle3", "speculators") for fields in VARIANTS.values()),
        *(("speculators", fields) for fields in OF_SPECULATORS.values()),
    ],
    ids=[
        *(f"{layout} {name}" for layout in ("eagle3", "speculators") for name in VARIANTS),
        *(f"speculators {name}" for name in OF_SPECULATORS),
    ],
)
def test_what_is_saved_loads_as_it_was(layout, fields, tmp_path):
    drafter = eagle3_drafter(layout=layout, size=4, **fields)
    jm.save_drafter(drafter, tmp_path / "head")
    assert_same_drafter(jm.load_drafter(tmp_path / "head"), drafter)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (decoder(attention()), "it reads the stream 'blocks/1', and the target has embeddings, blocks/0"),
        ("wide", "reads streams of width 16, and those of the target have 32"),
        ("vocabulary", "trained for a vocabulary of 29 tokens, and the target's has 30"),
    ],
    ids=["layers", "width", "vocabulary"],
)
def test_a_head_for_another_target_is_refused(target, message, tmp_path):
    jm.save_drafter(eagle3_drafter(layout="speculators"), tmp_path / "head")
    plain = architecture("attention")[0]
    if target == "wide":
        target = dataclasses.replace(plain, d_model=2 * D_MODEL)
    elif target == "vocabulary":
        target = dataclasses.replace(plain, vocab_size=VOCAB + 1)
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load_drafter(tmp_path / "head", target)
