"""VAR and M-VAR against torch passes over the published tensors; files both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import published_next_scale as published
import pytest
import torch
from diffusers_modules import assert_saved_alike, draw
from model_helpers import quick_jit
from next_scale_models import MVAR, SIDES, VAR, scale_model
from next_scale_models import published as tensors_of

from jaxmodels.checkpoints.diffusers import load_next_scale_model, save_next_scale_model
from jaxmodels.layers.spec import walk
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS

KINDS = {
    "cosine": {},
    "shared": {"attn_l2_norm": False, "shared_aln": True},
    "decoupled": {"published": MVAR, "depth": 1},
}


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("var")
    config, params = scale_model(**KINDS[request.param])
    state = tensors_of(save_next_scale_model, config, params, directory)
    return config, params, state, directory


def expected_logits(saved, classes, shown):
    """The scores of all scales, from the published tensors."""
    config, _, state, _ = saved
    attention = config.blocks[0].mixer
    network = published.network_of(state, SIDES, attention.num_heads, attention.query_norm is not None)
    condition, first, parts = state["class_emb.weight"][classes], 0, []
    for scale, side in enumerate(SIDES):
        size = side**2
        parts.append(network.scale(scale, condition, shown[:, first : first + size] if scale else None))
        first += size if scale else 0
    return torch.cat(parts, 1).numpy()


def test_all_scales_at_once_are_scored_as_published(saved):
    config, params, *_ = saved
    shown, theirs = draw(2, 29, 6)
    expected = expected_logits(saved, [1, 5], theirs)
    found = quick_jit(config.forward)(params, jnp.array([1, 5]), shown)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.wide(every_run=1)
def test_scale_after_scale_is_scored_as_all_at_once(saved):
    config, params, *_ = saved
    shown, _ = draw(2, 29, 6)
    classes = jnp.array([0, 3])
    expected = quick_jit(config.forward)(params, classes, shown)

    @quick_jit
    def by_scale(params, classes, shown):
        condition, cache, parts, first = config.condition(params, classes), config.init_cache(2), [], 0
        for scale, size in enumerate(config.sizes):
            x = config.begin(params, condition)
            if scale:
                x = config.embed(params, shown[:, first : first + size], scale)
                first += size
            logits, pending = config.peek(params, x, cache, condition)
            cache = config.commit(pending)
            parts.append(logits)
        return jnp.concatenate(parts, 1)

    found = by_scale(params, classes, shown)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    *_, directory = saved
    assert_saved_alike(load_next_scale_model, save_next_scale_model, directory, tmp_path / "again")


@pytest.mark.parametrize("layout", [VAR, MVAR], ids=["VAR", "MVAR"])
def test_biases_of_keys_are_not_trained(layout):
    config, _ = scale_model(published=layout)
    frozen = {path for path, param in walk(config.spec()) if param.frozen}
    assert frozen == {f"blocks/{i}/mixer/b_k" for i in range(2)}


def test_what_is_kept_of_decoupled_scales_does_not_grow():
    few, many = (
        scale_model(published=MVAR, depth=1, patch_nums=sides)[0] for sides in ([1, 2], [1, 2, 4, 8])
    )
    (within, across), (_, of_many) = few.init_cache(2).layers[0], many.init_cache(2).layers[0]
    assert within == ()
    shapes = [leaf.shape for leaf in jax.tree.leaves(across)]
    assert shapes == [leaf.shape for leaf in jax.tree.leaves(of_many)]


def test_inputs_of_another_size_are_refused():
    config, params = scale_model()
    with pytest.raises(ValueError, match=r"shown: expected \['B', 29, 6\], got \[1, 30, 6\]"):
        config.forward(params, jnp.array([0]), jnp.zeros((1, 30, 6)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (VAR | {"num_heads": 5}, "num_heads"),
        (VAR | {"patch_nums": []}, "stage"),
        (VAR | {"depth": 0}, "'depth'"),
        (MVAR | {"embed_dim": 48}, "'embed_dim' must be a multiple of 32, got 48"),
        (MVAR | {"shared_aln": True}, "'shared_aln' has the value True, which is not supported"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        NEXT_SCALE_MODELS.read(changed)
