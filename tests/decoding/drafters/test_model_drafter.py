"""Drafting by a model costs one step per token, and greedy drafting makes no distribution."""

import functools
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import VOCAB, attention, decoder, forward, random_params
from scipy.special import softmax
from strategy_helpers import architecture, decode, nearby, ready

import jaxmodels as jm
from jaxmodels.decoding import Draft, Greedy, ModelDrafter, Sample, Speculative, TreeDrafter
from jaxmodels.decoding.drafters import Round
from jaxmodels.decoding.lengths import Whole
from jaxmodels.decoding.strategy import empty_output, row_keys
from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.models.decoder import Decoder

LEVELS = 5
GREEDY = Greedy()


def around(config, params, request, sampler):
    batch, length = request.tokens.shape[0], Whole()
    state = length.begin(batch)
    output = empty_output(batch, 8, request.pad_token)
    return Round(
        config=config,
        params=params,
        request=request,
        output=output,
        token=jnp.ones(batch, jnp.int32),
        sampler=sampler,
        processors=(),
        keys=row_keys(request, output.lengths),
        prefill_window=16,
        limit=length.limit(state, LEVELS),
        stop=functools.partial(length.stop, state),
    )


def traced(drafter, config, params, sampler=GREEDY, capacity=64):
    """The proposal as a program of its own, its cache donated."""
    request = ready(config, params, Speculative(draft=drafter)).request
    cache = config.init_cache(request.tokens.shape[0], capacity)

    def propose(params, cache, request):
        return drafter.propose(cache, around(config, params, request, sampler))

    return jax.jit(propose, donate_argnums=1).trace(params, cache, request)


def flops(lowered):
    return lowered.compile().cost_analysis()["flops"]


def step_flops(config, params):
    """One decoded token in each row."""

    def step(params, token, cache):
        scored, pending = config.peek(params, token, cache)
        return jnp.argmax(scored.logits, axis=-1), config.commit(pending)

    arguments = params, jnp.ones((4, 1), jnp.int32), config.init_cache(4, 64)
    return flops(jax.jit(step, donate_argnums=2).lower(*arguments))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["tiny-mamba2", "tiny-qwen3", "tiny-hybrid-moe"])
@pytest.mark.parametrize("siblings", [(1,) * LEVELS, (3, 2, 1, 1, 1)], ids=["chain", "tree"])
def test_drafting_costs_a_step_per_token(name, siblings):
    """XLA counts the body of a loop once, so that all of it is at most this for each of its turns."""
    model = jm.load(name)
    draft = Draft(model.config, model.params)
    drafter = TreeDrafter(draft=draft, siblings=siblings)
    if max(siblings) == 1:
        drafter = ModelDrafter(draft=draft, size=LEVELS)
    trace = traced(drafter, model.config, model.params)
    assert [eqn.primitive.name for eqn in trace.jaxpr.eqns].count("while") == 1
    assert flops(trace.lower()) <= 1.1 * step_flops(model.config, model.params)


@dataclass(frozen=True, kw_only=True)
class Counted(Decoder):
    """A decoder that notes each of its steps as it runs."""

    def score(self, *arguments, **options):
        jax.debug.callback(lambda: STEPS.append(1))
        return super().score(*arguments, **options)


STEPS = []


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("limits", "steps"), [((5, 5), 5), ((0, 2), 2), ((0, 0), 0)])
def test_no_step_is_taken_that_no_row_drafts_with(limits, steps):
    config, params = architecture("hybrid")
    counted = Counted(**{field.name: getattr(config, field.name) for field in fields(Decoder)})
    drafter = ModelDrafter(draft=Draft(counted, params), size=LEVELS)
    request = ready(config, params, Speculative(draft=drafter), prompts=[[1], [2]]).request
    here = replace(around(config, params, request, GREEDY), limit=jnp.asarray(limits))
    STEPS.clear()
    proposal, pending = jax.jit(lambda cache: drafter.propose(cache, here))(config.init_cache(2, 64))
    jax.effects_barrier()
    assert len(STEPS) == steps
    np.testing.assert_array_equal(proposal.count, limits)
    np.testing.assert_array_equal(pending.valid, limits)


@pytest.mark.sweep
def test_a_draft_ends_behind_a_token_that_it_is_not_sure_of():
    config, params = architecture("attention")
    drafter = ModelDrafter(draft=Draft(config, params), size=LEVELS)
    request = ready(config, params, Speculative(draft=drafter)).request
    here = around(config, params, request, GREEDY)

    def drafted(threshold):
        now = replace(here, stop=lambda index, probability: probability < threshold)
        proposal, _ = jax.jit(lambda cache: drafter.propose(cache, now))(config.init_cache(4, 64))
        return proposal

    whole = drafted(0.0)
    np.testing.assert_array_equal(whole.count, LEVELS)
    text = np.concatenate([np.asarray(here.token)[:, None], whole.tokens], axis=1)
    sure = softmax(forward(config, params, text), axis=-1).max(-1)[:, :LEVELS]
    threshold = float(np.median(sure))
    ended = drafted(threshold)
    unsure = sure < threshold
    np.testing.assert_array_equal(ended.count, np.where(unsure.any(1), unsure.argmax(1) + 1, LEVELS))
    there = np.arange(LEVELS) < np.asarray(ended.count)[:, None]
    np.testing.assert_array_equal(np.asarray(ended.tokens)[there], np.asarray(whole.tokens)[there])


@pytest.mark.sweep
def test_keys_and_values_of_the_draft_are_not_copied():
    config, params = architecture("attention")
    drafter = ModelDrafter(draft=Draft(config, params), size=LEVELS)
    temporary = []
    for capacity in (1024, 8192):
        memory = traced(drafter, config, params, capacity=capacity).lower().compile().memory_analysis()
        cache = jax.eval_shape(lambda size=capacity: config.init_cache(4, size))
        buffers = [leaf for layer in cache.layers for leaf in (layer.k, layer.v)]
        assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in buffers)
        temporary.append(memory.temp_size_in_bytes)
    # What may grow is per slot and row, not per slot, head and feature: positions and masks.
    assert temporary[1] - temporary[0] <= 16 * len(config.blocks) * 4 * (8192 - 1024)


@pytest.mark.parametrize("sampler", [GREEDY, Sample()], ids=["greedy", "sampled"])
def test_greedy_drafts_come_without_distributions(sampler):
    config, params = architecture("ssd")
    trace = traced(ModelDrafter(draft=Draft(config, params), size=LEVELS), config, params, sampler)
    shapes = [out.shape == (4, LEVELS, VOCAB) for out in jax.tree.leaves(trace.out_info)]
    assert any(shapes) == (sampler != GREEDY)


@pytest.mark.sweep
def test_a_draft_whose_cache_evicts_drafts_as_well():
    """It is shown the growing window anew, which drops tokens exactly."""
    config = decoder(attention(cache=D2O(budget=64, recent=8, longest_peek=32)), attention())
    full = decoder(attention(), attention())
    params = random_params(full.spec())
    drafts = [Speculative(draft=Draft(one, nearby(params, 0.1)), gamma=3) for one in (config, full)]
    evicting, plain = (decode(full, params, strategy) for strategy in drafts)
    np.testing.assert_array_equal(evicting.tokens, plain.tokens)
    np.testing.assert_array_equal(evicting.counters["accepted"], plain.counters["accepted"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a whole number >= 1 .*, got 0"),
        ({"draft": 3}, "draft must be a model, a Draft.*, got 3"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ModelDrafter(**{"draft": Draft(*architecture("ssd")), **arguments})


def test_a_name_is_loaded_by_generate_alone():
    drafter = ModelDrafter(draft="tiny-qwen3")
    with pytest.raises(ValueError, match=r"draft 'tiny-qwen3' is a name, which Model\.generate loads"):
        drafter.propose(None, None)
