"""Models that keep some experts of their mixtures on the device give what those without give."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.expert_memory import check_expert_memory
from jaxmodels.models.cache import with_kept, without_kept
from jaxmodels.models.rows import repeat_rows
from jaxmodels.tpu_configs.mesh import make_mesh

KEPT = 3  # of 4 experts, 2 per token
PROMPT = [5, 4, 3, 9, 8]


def load(directory, **numbers):
    return jm.load(directory, experts=jm.HostExperts(**numbers))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mixture"
    jm.save(jm.init(jm.config_from_hf(CONFIGS["qwen3_moe"]), seed=2), path)
    return path


def decoded(model, steps):
    """The logits of so many greedy steps, and what layers keep behind them."""
    config = model.config

    @jax.jit
    def run(params, cache):
        def step(carry, _):
            token, cache = carry
            scored, pending = config.peek(params, token, cache)
            token = scored.logits[:, -1:].argmax(-1).astype(jnp.int32)
            return (token, config.commit(pending)), scored.logits[:, -1]

        cache = with_kept(config, params, cache)
        (_, cache), logits = lax.scan(step, (jnp.asarray([[7]], jnp.int32), cache), length=steps)
        return logits, cache

    return run(model.params, config.init_cache(1, 16))


@pytest.fixture(scope="module")
def plain(saved):
    logits, cache = decoded(jm.load(saved, experts="host"), 10)
    assert cache.kept == ()
    return logits


@pytest.mark.parametrize("numbers", [{"kept": KEPT}, {"kept": KEPT, "ahead": 1}], ids=str)
def test_the_same_logits_and_fewer_fetches(saved, plain, numbers):
    logits, cache = decoded(load(saved, **numbers), 10)
    np.testing.assert_array_equal(logits, plain)
    (slots,) = cache.kept
    assert int(slots.windows) == 10
    ahead = 10 * numbers.get("ahead", 0)
    assert 2 + ahead <= int(slots.fetches) < 20 + ahead


@pytest.mark.sweep
def test_a_program_of_a_whole_generation(saved):
    """Its prompt chooses more experts than are kept; what is kept is no part of what it returns."""
    wanted = jm.load(saved, experts="host").generate([PROMPT], 8, stop_tokens=())
    got = load(saved, kept=KEPT, ahead=1).generate([PROMPT], 8, stop_tokens=())
    np.testing.assert_array_equal(got.tokens, wanted.tokens)


@pytest.mark.sweep
@pytest.mark.parametrize("quantize", [None, "int4"])
def test_a_mixture_in_a_block_of_its_own(quantize):
    models = [
        jm.load("tiny-hybrid-moe", quantize=quantize, experts=experts)
        for experts in ("host", jm.HostExperts(kept=4, ahead=2))
    ]
    wanted, got = (model.generate("def f(x):", 16, stop_tokens=()) for model in models)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "strategy",
    [
        jm.decoding.Speculative(draft=jm.decoding.PromptLookup()),
        jm.decoding.Speculative(draft=jm.decoding.FirstLayers(layers=1, size=2)),
        jm.decoding.BestOf(samples=2),
    ],
    ids=["lookup", "first-layers", "best-of"],
)
def test_strategies_that_split_repeat_and_take_back_histories(tmp_path, strategy):
    config = jm.config_from_hf({**CONFIGS["qwen3_moe"], "num_hidden_layers": 2})
    jm.save(jm.init(config, seed=2), tmp_path / "model")
    models = jm.load(tmp_path / "model", experts="host"), load(tmp_path / "model", kept=KEPT)
    wanted, got = (model.generate([PROMPT], 8, strategy, stop_tokens=(), seed=1) for model in models)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)


def test_what_is_kept_belongs_to_no_row(saved):
    model = load(saved, kept=KEPT)
    cache = with_kept(model.config, model.params, model.config.init_cache(1, 16))
    several = repeat_rows(cache, 2)
    assert several.length.shape == (2,)
    assert jax.tree.map(jnp.shape, several.kept) == jax.tree.map(jnp.shape, cache.kept)
    assert without_kept(cache).kept == ()


def test_a_loop_over_steps_copies_none_of_it(saved):
    """It holds the slots once, for their projections as arguments of the loop, and writes single experts."""
    model = load(saved, kept=KEPT, ahead=1)
    config = model.config
    cache = with_kept(config, model.params, config.init_cache(1, 16))

    def steps(params, cache):
        def step(_, cache):
            return config.commit(config.peek(params, jnp.zeros((1, 1), jnp.int32), cache)[1])

        return lax.fori_loop(0, 8, step, cache)

    compiled = jax.jit(steps, donate_argnums=1).lower(model.params, cache).compile()
    one = sum(leaf[0].nbytes for leaf in jax.tree.leaves(cache.kept[0].stacks))
    assert compiled.memory_analysis().alias_size_in_bytes >= KEPT * one
    # Beside them: one that comes ahead, one that is fetched, and room for the step itself.
    assert compiled.memory_analysis().temp_size_in_bytes < KEPT * one


def test_numbers_that_do_not_fit_a_model_are_refused(saved):
    with pytest.raises(ValueError, match=r"a token chooses up to 2 experts of 'blocks/0/ffn'; keep as many"):
        load(saved, kept=1)
    several = AbstractMesh((2,), ("expert",))
    with pytest.raises(ValueError, match=r"with a mesh of 2 devices: experts are kept on a single device"):
        check_expert_memory(jm.HostExperts(kept=2), several)
    mesh = make_mesh(devices=jax.devices()[:1])
    assert jm.load(saved, experts=jm.HostExperts(kept=2), mesh=mesh).mesh == mesh


def test_the_policy_is_a_part_of_the_configuration(saved):
    model = load(saved, kept=KEPT)
    (block,) = model.config.blocks
    assert block.ffn.in_host == jm.HostExperts(kept=KEPT)
    assert replace(block.ffn, in_host=jm.HostExperts()) == jm.load(saved).config.blocks[0].ffn
