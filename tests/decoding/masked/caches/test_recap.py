"""ReCAP's cheap steps: exact where they compute everything, kept to their groups elsewhere."""

import re

import jax
import numpy as np
import pytest
from masked_image_models import image_model
from model_helpers import quick_jit

from jaxmodels.decoding import MaskedDiffusion
from jaxmodels.decoding.masked import FixedBlocks
from jaxmodels.decoding.masked.caches import ReCAP
from jaxmodels.decoding.masked.caches.kept import Shown
from jaxmodels.decoding.masked.images import plan_images, watch
from jaxmodels.decoding.masked.unmask import MaskGIT, ToZero
from jaxmodels.models.filling import MaskFilling

PLACES, MASK = 16, 22
RULE = MaskGIT(temperature=ToZero(2.0))


@pytest.fixture(scope="module")
def model():
    return image_model(seed=1)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("cache", "steps"),
    [
        pytest.param(ReCAP(tokens=4, full=8), 8, id="full steps alone"),
        pytest.param(ReCAP(tokens=PLACES, local=3, full=0), 8, id="groups of the whole image"),
        pytest.param(ReCAP(tokens=PLACES, local=0, full=2), 5, id="no step between full ones"),
    ],
)
def test_it_is_exact_where_every_step_computes_all_places(model, cache, steps):
    classes = [3, 1, 4, 1, 5]
    wanted = model.generate(classes, steps=steps, unmask=RULE, seed=4)
    made = model.generate(classes, steps=steps, unmask=RULE, cache=cache, seed=4)
    np.testing.assert_array_equal(made.codes, wanted.codes)
    assert made.calls == wanted.calls == steps


@pytest.mark.sweep
def test_a_step_fills_in_as_many_places_as_the_rule_has_it_and_those_of_its_group(model):
    """Ten steps: two full ones, then groups of one full step and one cheap one."""
    steps, cache = 10, ReCAP(tokens=6, local=1, full=2)
    stages = list(model.stream([7, 2, 2], steps=steps, unmask=RULE, cache=cache, seed=5))
    left = [(made.codes < 0).sum((1, 2)).tolist() for made in stages]
    plain = model.stream([7, 2, 2], steps=steps, unmask=RULE, seed=5)
    assert left == [(made.codes < 0).sum((1, 2)).tolist() for made in plain]


def test_a_group_that_is_too_small_takes_what_there_is(model):
    """A cosine leaves most places to the last steps, here more than the groups have."""
    cache = ReCAP(tokens=2, local=1, full=0)
    stages = list(model.stream([7, 2], steps=8, unmask=RULE, cache=cache, seed=5))
    left = np.array([(made.codes < 0).sum((1, 2)) for made in stages])
    assert all((left[i] - left[i + 2] <= 2).all() for i in range(0, len(left) - 2, 2))
    assert (left[-1] == 0).all()


@pytest.mark.sweep
def test_a_cheap_step_reads_what_the_full_one_kept_of_other_places(model):
    """By hand: keys and values as they were, but those of the class and of the group."""
    config, params = model.model.config, model.model.params
    cache = ReCAP(tokens=3, local=1, full=0)
    strategy = MaskedDiffusion(blocks=FixedBlocks(PLACES), steps=PLACES, unmask=RULE, cache=cache)
    given = np.array([[12 + 3], [12 + 8]])
    ready = plan_images(config, params, given, PLACES, seed=0)
    canvases = [tokens for tokens, _ in watch(config, params, strategy, ready)]
    ready = plan_images(config, params, given, PLACES, seed=0)
    step = quick_jit(lambda carry: strategy.step(config, params, ready.request, carry))
    start = quick_jit(lambda cache: strategy.prefill(config, params, ready.request, cache, _output(2)))
    carry = step(start(ready.cache))
    np.testing.assert_array_equal(carry.canvas.tokens, canvases[1])
    group = np.asarray(carry.kept.memory.places)
    logits, _ = quick_jit(
        lambda carry: cache.score(
            Shown(config=config, params=params, canvas=carry.canvas, length=PLACES), carry.kept
        )
    )(carry)
    for row in range(2):
        wanted = _cheap(config, params, canvases[0][row], canvases[1][row], [0, *group[row]])
        np.testing.assert_allclose(
            np.asarray(logits)[row, group[row] - 1], wanted[1:], atol=2e-5 * np.abs(wanted).max()
        )
        assert set(np.flatnonzero(canvases[2][row] != canvases[0][row])) <= set(group[row].tolist())


def _output(batch):
    from jaxmodels.decoding.strategy import empty_output

    return empty_output(batch, PLACES, np.int32(-1))


def _cheap(config, params, before, now, chosen):
    """Logits at the chosen places: layer by layer, theirs from `now`, all others' from `before`."""
    width, given = config.blocks[0].mixer.head_dim, params
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(weights, x, eps=1e-12):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weights["scale"] + weights["bias"]

    def project(weights, name, x):
        return np.einsum("sd,nhd->snh", x, weights[f"w_{name}"]) + weights[f"b_{name}"]

    def gelu(x):
        return np.asarray(jax.nn.gelu(x, approximate=False), np.float64)

    def layer(weights, x, k, v):
        mixer = weights["mixer"]
        q = project(mixer, "q", x)
        scores = np.einsum("snh,tnh->nst", q, k) / np.sqrt(width)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        found = np.einsum("nst,tnh->snh", share, v)
        mixed = np.einsum("snh,dnh->sd", found, mixer["w_o"]) + mixer["b_o"]
        x = norm(weights["mixer_norm"], x + mixed)
        ffn = weights["ffn"]
        fed = gelu(x @ ffn["w_up"].T + ffn["b_up"]) @ ffn["w_down"].T + ffn["b_down"]
        return norm(weights["ffn_norm"], x + fed)

    def embed(tokens):
        return norm(params["embed_norm"], params["embed"]["weight"][tokens] + params["positions"]["weight"])

    old, new = embed(before), embed(now)[chosen]
    for weights in params["blocks"].values():
        keys, values = (project(weights["mixer"], name, old) for name in "kv")
        old = layer(weights, old, keys, values)
        keys, values = keys.copy(), values.copy()
        keys[chosen], values[chosen] = (project(weights["mixer"], name, new) for name in "kv")
        new = layer(weights, new, keys, values)
    return np.asarray(config.logits(given, new.astype(np.float32)[None]))[0]


@pytest.mark.parametrize(
    ("cache", "options", "message"),
    [
        (ReCAP(tokens=17), {}, "a group of 17 tokens exceeds the block of 16"),
        (ReCAP(tokens=4), {"stop": lambda seen, tokens: seen}, "scores some places of a block in each step"),
    ],
)
def test_what_does_not_fit_is_refused(model, cache, options, message):
    strategy = MaskedDiffusion(blocks=FixedBlocks(PLACES), unmask=RULE, cache=cache, **options)
    with pytest.raises(ValueError, match=re.escape(message)):
        strategy.check_model(model.model.config, PLACES)


def test_logits_of_other_places_are_refused(model):
    config = model.model.config
    shifted = config.__class__(**vars(config) | {"filling": MaskFilling(mask_token=MASK, offset=1)})
    with pytest.raises(ValueError, match="speak of the place behind their own; use Dual"):
        ReCAP(tokens=4).check(shifted, PLACES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": 0}, "tokens must be a whole number >= 1"),
        ({"tokens": 4, "local": -1}, "local must be a whole number"),
        ({"tokens": 4, "temperature": -1.0}, "temperature must be a finite number >= 0"),
    ],
)
def test_numbers_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ReCAP(**values)
