"""What drafts in contests: bundled drafts and heads by the name of their model, and what is refused."""

import pytest

import jaxmodels as jm
from jaxmodels.checkpoints.hub import list_bundled_drafters
from jaxmodels.decoding_bench.drafts import bundled_drafts, load_draft


def test_bundled_drafts_load_for_their_model():
    for name in ("tiny-qwen3", "tiny-mamba2"):
        target = jm.load(name)
        found = bundled_drafts(name)
        assert {one for one in list_bundled_drafters() if one.startswith(name)} < set(found)
        for draft in found:
            load_draft(draft, target.config)
    assert bundled_drafts("tiny-hybrid-moe") == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-dit", "tiny-dit"),
        ("tiny-llama-lists", r"draft 'tiny-llama-lists': its vocabulary has \d+ tokens and the model's 4096"),
    ],
)
def test_what_cannot_draft_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        load_draft(name, jm.load("tiny-qwen3").config)
