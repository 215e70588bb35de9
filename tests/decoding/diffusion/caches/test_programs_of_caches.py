"""What caches make of a program: work that is left out, one program for all masks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_caches import canvases, full, plan_at, programs, run, tiny

from jaxmodels.decoding.diffusion.caches import (
    FORA,
    PAB,
    DBCache,
    EncoderSharing,
    FirstBlock,
    HarmoniCa,
    MagCache,
    SeaCache,
    Step,
    StepMask,
    TaylorSeer,
    TeaCache,
)

STEPS = 5
PLAN = plan_at(np.linspace(950, 150, STEPS))
ONES = np.ones(STEPS)
# By cache: as it never leaves anything out, and two settings that leave out more and less.
CACHES = {
    "StepMask": [StepMask(ONES), StepMask([1, 0, 0, 0, 1]), StepMask([1, 1, 0, 1, 1])],
    "MagCache": [MagCache(ONES, threshold=0, most_in_a_row=0), MagCache(ONES), MagCache(1.1 * ONES)],
    "FORA": [FORA(1), FORA(4), FORA(2)],
    "TaylorSeer": [TaylorSeer(1), TaylorSeer(5, 1), TaylorSeer(2, 2)],
    "PAB": [PAB(1), PAB(4), PAB(2)],
    "HarmoniCa": [HarmoniCa(np.full((STEPS, 4), logit), 0.5) for logit in (5.0, -5.0, 5.0)],
    "FirstBlock": [FirstBlock(-1), FirstBlock(9), FirstBlock(0.2)],
    "DBCache": [DBCache(1, threshold=0, warmup=1), DBCache(1, threshold=9, warmup=1), DBCache(1, warmup=4)],
    "TeaCache": [TeaCache(0), TeaCache(99), TeaCache(0.3)],
    "SeaCache": [SeaCache(0), SeaCache(99), SeaCache(0.2)],
    "EncoderSharing": [
        EncoderSharing(ONES),
        EncoderSharing([1, 0, 0, 0, 0]),
        EncoderSharing([1, 0, 1, 0, 1]),
    ],
}


@pytest.fixture(scope="module")
def models():
    return {name: tiny(name) for name in ("DiT", "DDT")}


@pytest.mark.parametrize("name", CACHES)
def test_one_program_leaves_out_what_the_settings_say(models, name):
    config, params, condition = models["DDT" if name == "EncoderSharing" else "DiT"]
    never, most, some = CACHES[name]
    given = (config, params, canvases(STEPS), PLAN, condition)
    wanted = full(*given)
    found, blocks, _ = run(never, *given)
    assert set(blocks) == {config.num_blocks}
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    compiled = programs()
    found, blocks, _ = run(most, *given)
    assert blocks[0] == config.num_blocks and blocks.sum() <= 0.8 * blocks[0] * STEPS
    assert np.abs(found - wanted).max() > 1e-4
    run(some, *given)
    assert programs() == compiled


SHAPES = [("StepMask", 0), ("FORA", 0), ("FirstBlock", 1), ("SeaCache", 0)]


@pytest.mark.parametrize(("name", "always"), SHAPES)
def test_blocks_that_are_left_out_are_not_computed(models, name, always):
    """They stand in one branch of a conditional: the other has none of their products."""
    config, params, condition = models["DiT"]
    cache, given = CACHES[name][1], config.read(params, condition)
    row = jax.tree.map(lambda rows: jnp.asarray(rows)[1], cache.rows(config, PLAN))
    made = config.conditions(params, jnp.full(2, 500.0), given)
    step = Step(params, jnp.asarray(canvases(1)[0]), given, made, config)
    traced = jax.make_jaxpr(cache.denoise)(step, row, cache.begin(step))
    switches = [equation.params["branches"] for equation in traced.eqns if equation.primitive.name == "cond"]
    pairs = [branches for branches in switches if len(branches) == 2]  # others choose a backend
    saved = max(products(computed.jaxpr) - products(reused.jaxpr) for reused, computed in pairs)
    of_a_block = 8  # query, key, value, scores, values, output, and the two of the feed-forward
    assert saved >= of_a_block * (config.num_blocks - always)


def products(jaxpr):
    """How many products of matrices a program has, those of the programs inside it included."""
    inner = [sub for equation in jaxpr.eqns for sub in jax.core.jaxprs_in_params(equation.params)]
    own = sum(equation.primitive.name == "dot_general" for equation in jaxpr.eqns)
    return own + sum(map(products, inner))


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (MagCache(np.ones(4)), "ratios: the calibration is made for 4 steps, but the run has 5 calls"),
        (HarmoniCa(np.ones((6, 4))), "router: it is made for 6 steps, but the run has 5 calls"),
        (HarmoniCa(np.ones((5, 9))), "router is made for 9 parts of blocks, but the model has 4"),
        (EncoderSharing([1, 0]), "compute: the mask is made for 2 steps, but the run has 5 calls"),
        (FORA(6), "interval: the schedule needs 6 steps, but the run has 5 calls"),
        (TaylorSeer(warmup=8), "warmup: the schedule needs 8 steps, but the run has 5 calls"),
        (DBCache(warmup=8), "warmup: the schedule needs 8 steps, but the run has 5 calls"),
        (SeaCache(warmup=3, cooldown=3), "cooldown: the schedule needs 6 steps, but the run has 5 calls"),
        (
            PAB(within=(0.1, 0.8)),
            "no step has a time between 0.1 and 0.8, .* go from 950 to 150",
        ),
        (DBCache(2, warmup=1), "first=2: no block is left to leave out, the model has 2"),
        (DBCache(1, 1, warmup=1), "first=1 and last=1: no block is left to leave out, the model has 2"),
        (FORA(2, parts=("cross",)), r"parts: blocks of the model have mixer, ffn, got \('cross',\)"),
        (EncoderSharing([1, 0, 0, 0, 0]), "an encoder can be shared in a DDT, but the model is a DiT"),
    ],
)
def test_what_does_not_fit_the_run_or_the_model(models, cache, message):
    config, params, condition = models["DiT"]
    with pytest.raises(ValueError, match=message):
        run(cache, config, params, canvases(STEPS), PLAN, condition)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: MagCache([1.0, -1.0]), r"ratios must be finite numbers > 0, got \[1.0, -1.0\]"),
        (lambda: MagCache("1"), "ratios must be a number for each step, got '1'"),
        (lambda: MagCache([1.0], warmup=2), "warmup must be a finite number >= 0 and <= 1, got 2"),
        (lambda: HarmoniCa([[np.nan]]), "router must be finite numbers, one for each step and part"),
        (lambda: FORA(0), "interval must be a whole number >= 1.*, got 0"),
        (lambda: TaylorSeer(order=-1), "order must be a whole number >= 0.*, got -1"),
        (lambda: PAB(within=(1,)), r"within must be two times, got \(1,\)"),
        (lambda: TeaCache(coefficients=()), r"coefficients must be numbers, got \(\)"),
        (lambda: SeaCache(power=0), "power must be a finite number > 0, got 0"),
    ],
)
def test_options_outside_their_range(made, message):
    with pytest.raises(ValueError, match=message):
        made()
