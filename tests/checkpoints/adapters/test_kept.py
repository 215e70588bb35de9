"""Adapters kept beside their base: switched, taken away, and sharing what they do not change."""

import numpy as np
import pytest
from adapters_of_peft import TOKENS, adapt, assert_logits

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.layers.spec import walk


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapters")
    return (
        adapt(directory, "llama", r=4, target_modules=["q_proj", "up_proj"]),
        adapt(directory, "llama", seed=2, r=2, target_modules=["o_proj"], use_dora=True),
    )


def test_models_with_and_without(two):
    base = jm.load(two[0].base)
    before = base(TOKENS)
    with_first = base.with_adapter(two[0].adapter)
    with_second = with_first.with_adapter(str(two[1].adapter), "second")
    assert_logits(with_first(TOKENS), two[0].logits)
    assert_logits(with_second(TOKENS), two[1].logits)
    assert_logits(with_second.use_adapter(two[0].adapter.name)(TOKENS), two[0].logits)
    assert_logits(with_second.without_adapter().use_adapter("second")(TOKENS), two[1].logits)
    np.testing.assert_array_equal(with_second.without_adapter()(TOKENS), before)
    np.testing.assert_array_equal(base(TOKENS), before)


def test_what_an_adapter_does_not_change_is_shared(two):
    base = jm.load(two[0].base)
    adapted = base.with_adapter(two[0].adapter)
    before = dict(walk(base.params))
    own = {path for path, leaf in walk(adapted.params) if leaf is not before[path]}
    assert own == {f"blocks/{i}/{path}" for i in (0, 1) for path in ("mixer/w_q", "ffn/w_up")}
    assert adapted.without_adapter().params is base.params


def test_the_weights_in_use_are_saved(two, tmp_path):
    jm.save(jm.load(two[0].base).with_adapter(two[0].adapter), tmp_path / "saved")
    assert_logits(jm.load(tmp_path / "saved")(TOKENS), two[0].logits)


def test_without_adapters_there_is_nothing_to_use(two):
    base = jm.load(two[0].base)
    assert base.without_adapter() is base
    with pytest.raises(ValueError, match=r"there is no adapter 'other'; the model has \[\]"):
        base.use_adapter("other")
    with pytest.raises(ValueError, match=r"the model has \['one'\]"):
        base.with_adapter(two[0].adapter, "one").use_adapter("other")
    with pytest.raises(CheckpointError, match="'nowhere' is no model"):
        base.with_adapter("nowhere")
