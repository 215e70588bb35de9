"""Early exit against a loop over blocks written out, and the work that its program skips."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from strategy_helpers import (
    MODELS,
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
    in_tiers,
)

from jaxmodels.decoding import Autoregressive, EarlyExit, Sample
from jaxmodels.decoding.depth import MaxProbability, UntilConfident
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.layers.spec import abstract_params
from jaxmodels.layers.window import Window

NEVER = EarlyExit(threshold=1.5, decode=Autoregressive(top_logprobs=2))


@pytest.mark.sweep
def test_a_threshold_that_is_never_reached_equals_autoregressive_decoding():
    config, params = architecture("hybrid")
    ours = decode(config, params, NEVER)
    assert_same_generation(ours, expected("hybrid"))
    assert (ours.counters["layers"] == len(config.blocks) * ours.counters["calls"]).all()


class Reference:
    """One row, block by block: every block is written, those behind the exit are not read."""

    def __init__(self, config, params, prompt):
        self.config, self.params = config, params
        self.write = quick_jit(self._write, static_argnums=0)
        self.read = quick_jit(self._read, static_argnums=0)
        self.say = quick_jit(lambda stream: config.logits(params, config.normalise(params, stream))[0, 0])
        cache = config.init_cache(1, len(prompt) + NEW)
        scored, pending = quick_jit(config.peek)(params, jnp.asarray([prompt]), cache)
        self.states, self.length = list(config.commit(pending).layers), len(prompt)
        self.tokens, self.depths = [int(scored.logits[0, -1].argmax())], []

    def window(self, length):
        one = jnp.ones((1,), jnp.int32)
        return Window(start=length * one, positions=length * one[:, None], valid=one)

    def _write(self, i, stream, state, length):
        return self.config.blocks[i].write(self.params["blocks"][str(i)], stream, state, self.window(length))

    def _read(self, i, stream, held, pending, length):
        return self.config.blocks[i].read(
            self.params["blocks"][str(i)], stream, held, pending, self.window(length)
        )

    def streams(self):
        """The stream behind each block for the newest token, if all were read."""
        stream = self.config.embed(self.params, jnp.asarray([[self.tokens[-1]]]), self.window(self.length))
        streams = []
        for i, state in enumerate(self.states):
            held, pending = self.write(i, stream, state, self.length)
            stream = self.read(i, stream, held, pending, self.length)
            streams.append(stream)
        return streams

    def exit_after(self, depth, streams):
        """The token of that depth; states behind it are filled from its stream."""
        inputs = [self.config.embed(self.params, jnp.asarray([[self.tokens[-1]]]), self.window(self.length))]
        inputs += [streams[min(i, depth - 1)] for i in range(len(streams) - 1)]
        for i, state in enumerate(self.states):
            _, pending = self.write(i, inputs[i], state, self.length)
            self.states[i] = self.config.blocks[i].commit(pending)
        self.tokens.append(int(self.say(streams[depth - 1]).argmax()))
        self.depths.append(depth)
        self.length += 1


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "threshold"), [("attention", 0.1), ("hybrid", 0.09)])
def test_each_row_leaves_where_it_is_confident(name, threshold):
    config, params = architecture(name)
    ours = decode(config, params, EarlyExit(threshold=threshold))
    rows = [Reference(config, params, prompt) for prompt in PROMPTS]
    for row in rows:
        for _ in range(NEW - 1):
            streams = row.streams()
            sure = [float(jax.nn.softmax(row.say(stream)).max()) for stream in streams]
            depth = next((i + 1 for i, one in enumerate(sure) if one >= threshold), len(sure))
            row.exit_after(depth, streams)
    assert ours.tokens[:, :NEW].tolist() == [row.tokens for row in rows]
    assert ours.counters["layers"].tolist() == [sum(row.depths) for row in rows]
    assert len({depth for row in rows for depth in row.depths}) > 1
    assert any(len(set(depths)) > 1 for depths in zip(*(row.depths for row in rows), strict=True))


@pytest.mark.sweep
@pytest.mark.parametrize("row", range(len(PROMPTS)))
def test_a_row_that_leaves_early_is_as_if_alone(row):
    config, params = architecture("hybrid")
    strategy = EarlyExit(threshold=0.1)
    together, alone = (
        decode(config, params, strategy, prompts) for prompts in (PROMPTS, PROMPTS[row : row + 1])
    )
    np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
    assert together.counters["layers"][row] == alone.counters["layers"][0]


@pytest.mark.sweep
def test_the_least_depth_is_kept():
    config, params = architecture("hybrid")
    ours = decode(config, params, EarlyExit(threshold=0.0, min_layers=2))
    assert (ours.counters["layers"] == 2 * ours.counters["calls"]).all()


def peek_once(config, strategy, capacity, batch=2):
    """One token at the strategy's depth, with abstract arguments for it."""

    def run(params, token, cache):
        depth = UntilConfident(
            confidence=MaxProbability(), threshold=strategy.threshold, min_layers=strategy.min_layers
        )
        scored, pending = config.peek(params, token, cache, depth=depth)
        return scored.logits, config.commit(pending)

    cache = jax.eval_shape(functools.partial(config.init_cache, batch, capacity))
    token = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    return run, (abstract_params(config.spec()), token, cache)


def conditionals(jaxpr):
    """Those that the policy makes, not those that choose by backend."""
    conds = [equation for equation in jaxpr.eqns if equation.primitive.name == "cond"]
    return [equation for equation in conds if equation.params.get("branches_platforms") is None]


@pytest.mark.parametrize("name", in_tiers(["attention"], ["hybrid"]))
def test_a_skipped_block_does_nothing_and_no_cache_leaves_a_branch(name):
    config, strategy = MODELS[name], EarlyExit(threshold=0.5)
    run, arguments = peek_once(config, strategy, 256)
    found = conditionals(jax.make_jaxpr(run)(*arguments).jaxpr)
    assert len(found) == len(config.blocks) - strategy.min_layers
    for equation in found:
        skip, go_on = (branch.jaxpr for branch in equation.params["branches"])
        assert not skip.eqns
        assert go_on.eqns
        # of both rows the residual stream, and but for the last block whether they go on
        sizes = [out.aval.size for out in equation.outvars]
        assert sizes == [2 * config.d_model, 2] or (equation is found[-1] and sizes == [2 * config.d_model])
    compiled = quick_jit(run, donate_argnums=2).lower(*arguments).compile().as_text()
    assert compiled.count(" conditional(") >= len(found)


@pytest.mark.parametrize("name", in_tiers(["attention"], ["hybrid"]))
def test_temporary_memory_does_not_grow_with_the_capacity(name):
    config, temporary = MODELS[name], []
    for capacity in (1024, 8192):
        run, arguments = peek_once(config, EarlyExit(threshold=0.5), capacity)
        memory = quick_jit(run, donate_argnums=2).lower(*arguments).compile().memory_analysis()
        temporary.append(memory.temp_size_in_bytes)
        cache_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[2]))
        assert memory.alias_size_in_bytes >= cache_bytes
    layers = sum(hasattr(block.mixer, "sliding_window") for block in config.blocks)
    # What may grow is per slot, not per slot, head and feature: positions and masks.
    assert temporary[1] - temporary[0] <= 16 * layers * 2 * (8192 - 1024)


@pytest.mark.sweep
def test_sampling_and_penalties_are_those_of_the_inner_strategy():
    config, params = architecture("attention")
    inner = Autoregressive(sampler=Sample(temperature=0.8, top_k=5), processors=(RepetitionPenalty(1.2),))
    plain = decode(config, params, inner, seed=3)
    ours = decode(config, params, EarlyExit(threshold=2.0, decode=inner), seed=3)
    np.testing.assert_array_equal(ours.tokens, plain.tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, "threshold must be a finite number >= 0, got -0.1"),
        ({"threshold": float("nan")}, "threshold .* got nan"),
        ({"min_layers": 0}, "min_layers must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyExit(**arguments)


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(ValueError, match="min_layers=4 exceeds the model's 3 layers"):
        decode(*architecture("hybrid"), EarlyExit(min_layers=4))


def test_the_threshold_is_data():
    low, high = (jax.tree.structure(EarlyExit(threshold=t)) for t in (0.1, 0.9))
    assert low == high != jax.tree.structure(dataclasses.replace(NEVER, min_layers=2))
