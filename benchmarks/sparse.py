"""What cache policies save over a dense cache in long contexts, and what they change in the output.

    python -m benchmarks.sparse

One attention layer of the 100M Qwen3 shape is shown 8 and 16 thousand hidden states and then decodes under
every policy, in turns, fed the same tokens; the whole model does so with the dense cache and with LServe.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from benchmarks.shapes import shape
from jaxmodels.layers.attend import Scores
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.cache.policy import CachePolicy
from jaxmodels.layers.cache.s2o import S2O, s2o_attend
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.spec import Params, init_params
from jaxmodels.layers.window import Window, peek
from jaxmodels.models.cache_policies import with_cache_policy
from jaxmodels.models.decoder import Cache, Decoder

FILL = 512  # tokens per window while a context is built
CORRELATION = 0.97  # of neighbouring hidden states
SHARPNESS = 4.0  # standard deviation of the logits, as of attention that has learnt to look


def policies(budgets: Sequence[int], small: bool) -> dict[str, CachePolicy]:
    """The policies under test; LServe at every budget, the others at the middle one."""
    middle = budgets[len(budgets) // 2]
    page = 4 if small else 64
    lserve = functools.partial(
        LServe, streaming_heads=(0,) if small else (0, 1), page=page, sinks=2 * page, local=4 * page
    )
    return {
        "dense": FULL_CACHE,
        **{f"LServe, budget {budget:,}": lserve(budget=budget) for budget in budgets},
        f"sinks + recent, {middle:,}": SinkCache(sinks=4, recent=middle - 4, longest_peek=FILL),
        f"D2O, budget {middle:,}": D2O(budget=middle, recent=middle // 2, longest_peek=FILL),
        f"InfiniPot-V, {middle:,} kept": InfiniPotV(
            budget=middle + FILL, keep=middle, recent=middle // 8, longest_peek=FILL
        ),
    }


def hidden_states(size: int, width: int, seed: int = 0) -> np.ndarray:
    """f32[size, width] of unit variance, a walk in which neighbours resemble each other."""
    noise = np.random.default_rng(seed).standard_normal((size, width)).astype(np.float32)
    states = np.empty_like(noise)
    states[0] = noise[0]
    for i in range(1, size):
        states[i] = CORRELATION * states[i - 1] + (1 - CORRELATION**2) ** 0.5 * noise[i]
    return states


def window_at(start: Int[Array, "B"], size: int) -> Window:
    return Window(
        start=start,
        positions=start[:, None] + jnp.arange(size),
        valid=jnp.full(start.shape, size, jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def show(layer: Attention, params: Params, x: Array, state: Any, start: Int[Array, "B"]) -> Any:
    """The state after a window that is written and not read."""
    return layer.commit(layer.write(params, x, state, window_at(start, x.shape[1]))[1])


def filled(layer: Attention, params: Params, x: Float[Array, "B S D"], capacity: int) -> Any:
    """The state after all of x."""
    state = jax.jit(lambda: lax.optimization_barrier(layer.init_state(x.shape[0], capacity, jnp.float32)))()
    for start in range(0, x.shape[1], FILL):
        state = show(
            layer, params, x[:, start : start + FILL], state, jnp.full(x.shape[:1], start, jnp.int32)
        )
    return state


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode(
    layer: Attention, params: Params, x: Array, state: Any, start: Int[Array, "B"]
) -> tuple[Array, Any]:
    """Outputs of all of x, one token at a time, and the state after them."""

    def step(i: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        outputs, state = carry
        token = lax.dynamic_slice_in_dim(x, i, 1, axis=1)
        y, pending = peek(layer, params, token, state, window_at(start + i, 1))
        return lax.dynamic_update_slice_in_dim(outputs, y, i, axis=1), layer.commit(pending)

    return lax.fori_loop(0, x.shape[1], step, (jnp.zeros_like(x), state))


@dataclass
class LayerContext:
    """One layer under one policy, after `length` tokens, decoding `steps` at a time."""

    layer: Attention
    params: Params
    x: Float[Array, "1 S D"]
    length: int
    steps: int
    rounds: int
    state: Any = None
    first: Any = None

    def __post_init__(self) -> None:
        capacity = self.length + self.steps * (self.rounds + 1)
        self.state = filled(self.layer, self.params, self.x[:, : self.length], capacity)
        self.turn()

    def turn(self) -> float:
        """Seconds per token; keeps the outputs of the first turn."""
        at = self.length
        tokens = self.x[:, at : at + self.steps]

        def run() -> Any:
            outputs, self.state = decode(self.layer, self.params, tokens, self.state, jnp.full((1,), at))
            return outputs

        outputs: list[Any] = []
        spent = seconds(lambda: outputs.append(run()) or outputs[-1])
        self.first = np.asarray(outputs[0]) if self.first is None else self.first
        self.length += self.steps
        return spent / self.steps


def relative_error(ours: np.ndarray, dense: np.ndarray) -> float:
    return float(np.linalg.norm(ours - dense) / np.linalg.norm(dense))


def sharpened(layer: Attention, params: Params, x: Float[Array, "1 S D"]) -> Params:
    """The parameters with queries scaled so that logits have the standard deviation `SHARPNESS`."""
    new = layer._project(params, x)
    logits = jnp.einsum("bsnh,btnh->bnst", new.q, jnp.repeat(new.k, layer.num_heads // layer.num_kv_heads, 2))
    gain = SHARPNESS / float(logits.std() * layer.head_dim**-0.5)
    name, leaf = ("query_norm", "scale") if layer.query_norm is not None else ("", "w_q")
    if name:
        return {**params, name: {leaf: params[name][leaf] * gain}}
    return {**params, leaf: params[leaf] * gain}


def one_layer(
    layer: Attention, lengths: Sequence[int], chosen: Mapping[str, CachePolicy], steps: int, rounds: int
):
    """Decoding of one layer by context and policy: (rows, seconds)."""
    x = jnp.asarray(hidden_states(lengths[-1] + steps * (rounds + 1), layer.d_model))[None]
    params = sharpened(layer, init_params(layer.spec(), jax.random.key(0)), x[:, :256])
    rows: list[list[Any]] = []
    times: dict[str, dict[str, float]] = {}
    for length in lengths:
        contexts = {
            name: LayerContext(replace(layer, cache=policy), params, x, length, steps, rounds)
            for name, policy in chosen.items()
        }
        timings = in_turns({name: context.turn for name, context in contexts.items()}, rounds)
        dense = timings["dense"].best
        for name, context in contexts.items():
            share = chosen[name].keys_read(layer.heads, length) / length
            error = relative_error(context.first, contexts["dense"].first)
            best = timings[name].best
            rows.append([f"{length:,}", name, share, 1e3 * best, best / dense, error])
        times[str(length)] = {name: timing.best for name, timing in timings.items()}
    return rows, times


def early_stop(
    layer: Attention, lengths: Sequence[int], thresholds: Sequence[float], block: int, rounds: int
):
    """S2O over the last windows of prompts: (rows, seconds)."""
    size = 4 * block
    x = jnp.asarray(hidden_states(lengths[-1], layer.d_model))[None]
    params = sharpened(layer, init_params(layer.spec(), jax.random.key(0)), x[:, :256])
    rows: list[list[Any]] = []
    times: dict[str, dict[str, float]] = {}
    for length in lengths:
        state = filled(layer, params, x[:, :length], length)
        new = layer._project(params, x[:, length - size : length])
        held, _ = FULL_CACHE.write(
            layer.heads,
            new,
            layer.init_state(1, size, jnp.float32),
            window_at(jnp.full((1,), length - size), size),
        )
        groups = layer.num_heads // layer.num_kv_heads
        q = held.q.reshape(1, size, layer.num_kv_heads, groups, layer.head_dim).transpose(0, 2, 3, 1, 4)
        at = jnp.arange(length - size, length)[None]
        runs: dict[str, Callable[[], Any]] = {}
        for threshold in (0.0, *thresholds):
            policy = S2O(threshold=threshold, query_block=block, key_block=block)
            compiled = jax.jit(functools.partial(s2o_attend, policy, Scores(scale=layer.head_dim**-0.5)))
            runs[f"{threshold:g}"] = functools.partial(compiled, q, state.k, state.v, state.positions, at)
        found = {name: jax.block_until_ready(run()) for name, run in runs.items()}
        timings = in_turns({name: functools.partial(seconds, run) for name, run in runs.items()}, rounds)
        for name, one in found.items():
            error = relative_error(np.asarray(one.out), np.asarray(found["0"].out))
            share = float(one.read.sum() / one.visible.sum())
            best = timings[name].best
            rows.append([f"{length:,}", name, share, 1e3 * best, best / timings["0"].best, error])
        times[str(length)] = {name: timing.best for name, timing in timings.items()}
    return rows, times


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode_tokens(config: Decoder, params: Params, tokens: Int[Array, "B 1"], cache: Cache, steps: Array):
    """Greedy tokens; how many is data."""

    def step(_: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        tokens, cache = carry
        logits, pending = config.peek(params, tokens, cache)
        return jnp.argmax(logits, -1).astype(jnp.int32), config.commit(pending)

    return lax.fori_loop(0, steps, step, (tokens, cache))


def whole_model(
    model: jm.Model, chosen: Mapping[str, CachePolicy], length: int, batch: int, steps: int, rounds: int
) -> dict[str, float]:
    """Seconds per step of the model, by policy, over contexts of hidden states drawn at random."""
    x = jnp.asarray(hidden_states(length, model.config.d_model))[None].repeat(batch, 0)
    capacity = length + steps * (rounds + 1)

    def clock(policy: CachePolicy) -> Callable[[], float]:
        config = with_cache_policy(model.config, policy)
        layers = []
        for i, block in enumerate(config.blocks):
            assert isinstance(block.mixer, Attention)
            layers.append(filled(block.mixer, model.params["blocks"][str(i)]["mixer"], x, capacity))
        carry = [jnp.ones((batch, 1), jnp.int32), Cache(jnp.full((batch,), length, jnp.int32), tuple(layers))]

        def turn() -> float:
            def run() -> Any:
                carry[:] = decode_tokens(config, model.params, *carry, steps)
                return carry

            return seconds(run) / steps

        turn()
        return turn

    timings = in_turns({name: clock(policy) for name, policy in chosen.items()}, rounds)
    return {name: timing.best for name, timing in timings.items()}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="turns of every measurement")
    parser.add_argument("--steps", type=int, default=16, help="tokens decoded per turn")
    arguments = parser.parse_args()
    lengths, budgets, batches, block = [8192, 16384], [512, 1024, 2048], [1, 4], 256
    if arguments.quick:
        lengths, budgets, batches, block = [512, 1024], [16, 32, 64], [1, 2], 16
        arguments.rounds, arguments.steps = 2, 4
    rounds, steps = arguments.rounds, arguments.steps
    model = jm.init(jm.config_from_hf(shape("qwen3-100m", tiny=arguments.quick)))
    layer = model.config.blocks[0].mixer
    assert isinstance(layer, Attention)

    chosen = policies(budgets, arguments.quick)
    rows, times = one_layer(layer, lengths, chosen, steps, rounds)
    prefill_rows, prefill_times = early_stop(layer, lengths, [1e-4, 1e-3, 1e-2], block, rounds)
    name = f"LServe, budget {budgets[1]:,}"
    pair = {key: chosen[key] for key in ("dense", name)}
    models = {batch: whole_model(model, pair, lengths[-1], batch, steps, rounds) for batch in batches}
    longest = times[str(lengths[-1])]
    publish(
        Result(
            name="sparse",
            title="Sparse attention and bounded caches",
            method=f"Random float32 weights; hidden states are a random walk (correlation {CORRELATION} "
            f"between neighbours), queries scaled to logits of standard deviation {SHARPNESS:g}; "
            f"{steps} tokens per turn, best of {rounds} turns. Keys read: per token and head, bounds of "
            "pages included, over the context. Error: of the layer's outputs, in the L2 norm, relative to "
            "the dense cache's.",
            values={
                "layer_decode_s": times,
                "s2o_prefill_s": prefill_times,
                "model_decode_s": {str(batch): value for batch, value in models.items()},
            },
            tables=[
                Table(
                    caption="One attention layer, projections included, decoding at batch 1",
                    columns=["context", "policy", "keys read", "ms/token", "x dense", "error"],
                    rows=rows,
                ),
                Table(
                    caption=f"S2O: attention of the last {4 * block:,} tokens of a prompt, by threshold",
                    columns=["prompt", "threshold", "density", "ms", "x threshold 0", "error"],
                    rows=prefill_rows,
                ),
                Table(
                    caption=f"The whole model, {len(model.config.blocks)} layers, {lengths[-1]:,} tokens",
                    columns=["batch", "dense (ms/step)", f"{name} (ms/step)", "x dense"],
                    rows=[
                        [batch, 1e3 * it["dense"], 1e3 * it[name], it[name] / it["dense"]]
                        for batch, it in models.items()
                    ],
                ),
            ],
            targets=[
                Target(
                    what=f"{name}, {lengths[-1]:,} tokens: attention layer's time over dense",
                    measured=longest[name] / longest["dense"], sense="at most", aim=1 / 3,
                ),
                Target(
                    what=f"{name}, {lengths[-1]:,} tokens, batch {batches[-1]}: model's time over dense",
                    measured=models[batches[-1]][name] / models[batches[-1]]["dense"],
                    sense="at most", aim=1 / 3,
                ),
            ],
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
