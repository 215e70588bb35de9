"""What cache policies save over a dense cache in long contexts, and what they change in the output.

    python -m benchmarks.sparse

Time: one attention layer of the 100M Qwen3 shape is shown 8 and 16 thousand hidden states and then decodes
under every policy, in turns; the whole model does so with the dense cache and with LServe. Error: a bundled
model, trained on contexts of 512 tokens, predicts text under every policy and budget.
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
from jaxmodels.layers.spec import Params, init_params, init_state
from jaxmodels.layers.window import Window, peek
from jaxmodels.models.cache import Cache
from jaxmodels.models.cache_policies import with_cache_policy
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.data import STDLIB_HELD_OUT, resolve_files

FILL = 512  # tokens per window while a context is built
CORRELATION = 0.97  # of neighbouring hidden states
SHARPNESS = 4.0  # standard deviation of the logits, as of attention that has learnt where to look


def policies(
    budget: int, page: int, streaming: tuple[int, ...] = (), longest_peek: int = FILL
) -> dict[str, CachePolicy]:
    """The policies that read or keep about `budget` tokens."""
    return {
        f"LServe, budget {budget:,}": LServe(
            streaming_heads=streaming, budget=budget, page=page, sinks=2 * page, local=4 * page
        ),
        f"sinks + recent, {budget:,}": SinkCache(sinks=4, recent=budget - 4, longest_peek=longest_peek),
        f"D2O, budget {budget:,}": D2O(budget=budget, recent=budget // 2, longest_peek=longest_peek),
        f"InfiniPot-V, {budget:,} kept": InfiniPotV(
            # It compresses once in budget // 8 tokens.
            budget=budget + budget // 8 + longest_peek,
            keep=budget,
            recent=budget // 8,
            longest_peek=longest_peek,
        ),
    }


def walk(size: int, width: int, seed: int = 0) -> Float[np.ndarray, "S D"]:
    """States of unit variance in which neighbours resemble each other."""
    states = np.random.default_rng(seed).standard_normal((size, width)).astype(np.float32)
    for i in range(1, size):
        states[i] = CORRELATION * states[i - 1] + (1 - CORRELATION**2) ** 0.5 * states[i]
    return states


def window_at(start: Int[Array, "B"], size: int) -> Window:
    positions, valid = start[:, None] + jnp.arange(size), jnp.full(start.shape, size, jnp.int32)
    return Window(start=start, positions=positions, valid=valid)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def show(layer: Attention, params: Params, x: Array, state: Any, start: Int[Array, "B"]) -> Any:
    """The state after a window that is written and not read."""
    return layer.commit(layer.write(params, x, state, window_at(start, x.shape[1]))[1])


def filled(layer: Attention, params: Params, x: Float[Array, "B S D"], capacity: int) -> Any:
    """The state after all of x."""
    state = jax.jit(lambda: lax.optimization_barrier(init_state(layer, len(x), capacity, jnp.float32)))()
    for start in range(0, x.shape[1], FILL):
        part = x[:, start : start + FILL]
        state = show(layer, params, part, state, jnp.full(x.shape[:1], start, jnp.int32))
    return state


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode(
    layer: Attention, params: Params, x: Float[Array, "B S D"], state: Any, start: Int[Array, "B"]
) -> tuple[Float[Array, "B S D"], Any]:
    """Outputs of all of x, one token at a time, and the state after them."""

    def step(i: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        outputs, state = carry
        token = lax.dynamic_slice_in_dim(x, i, 1, axis=1)
        y, pending = peek(layer, params, token, state, window_at(start + i, 1))
        return lax.dynamic_update_slice_in_dim(outputs, y, i, axis=1), layer.commit(pending)

    return lax.fori_loop(0, x.shape[1], step, (jnp.zeros_like(x), state))


@dataclass
class LayerContext:
    """One layer under one policy after `length` states of x, decoding `steps` more per turn."""

    layer: Attention
    params: Params
    x: Float[Array, "1 S D"]
    length: int
    steps: int

    def __post_init__(self) -> None:
        self.state = filled(self.layer, self.params, self.x[:, : self.length], self.x.shape[1])
        self.turn()

    def turn(self) -> float:
        """Seconds per token."""
        start, tokens = jnp.full((1,), self.length), self.x[:, self.length : self.length + self.steps]

        def run() -> Any:
            outputs, self.state = decode(self.layer, self.params, tokens, self.state, start)
            return outputs

        self.length += self.steps
        return seconds(run) / self.steps


def layer_decoding(
    layer: Attention, lengths: Sequence[int], chosen: Mapping[str, CachePolicy], steps: int, rounds: int
) -> tuple[Table, dict[str, dict[str, float]]]:
    """Decoding of one layer, by context and policy."""
    x = jnp.asarray(walk(lengths[-1] + steps * (rounds + 1), layer.d_model))[None]
    params = init_params(layer.spec(), jax.random.key(0))
    rows: list[list[Any]] = []
    times: dict[str, dict[str, float]] = {}
    for length in lengths:
        part = x[:, : length + steps * (rounds + 1)]
        contexts = {
            name: LayerContext(replace(layer, cache=policy), params, part, length, steps)
            for name, policy in chosen.items()
        }
        timings = in_turns({name: context.turn for name, context in contexts.items()}, rounds)
        best = {name: timing.best for name, timing in timings.items()}
        for name, policy in chosen.items():
            share = policy.keys_read(layer.heads, length) / length
            rows.append([f"{length:,}", name, share, 1e3 * best[name], best[name] / best["dense"]])
        times[str(length)] = best
    caption = "One attention layer, projections included, batch 1"
    return Table(
        caption=caption, columns=["context", "policy", "keys read", "ms/token", "× dense"], rows=rows
    ), times


def early_stop(
    layer: Attention, lengths: Sequence[int], thresholds: Sequence[float], block: int, rounds: int
) -> tuple[Table, dict[str, dict[str, float]]]:
    """S2O over the last blocks of prompts."""
    heads, width, size = layer.num_kv_heads, layer.head_dim, 4 * block
    shared = layer.num_heads // heads
    rows: list[list[Any]] = []
    times: dict[str, dict[str, float]] = {}
    for length in lengths:
        k, v = (
            jnp.asarray(walk(length, heads * width, seed).reshape(1, length, heads, width)).swapaxes(1, 2)
            for seed in (1, 2)
        )
        q = SHARPNESS * walk(size, heads * shared * width, 3).reshape(1, size, heads, shared, width)
        tags = jnp.arange(length)[None]
        arguments = jnp.asarray(q).transpose(0, 2, 3, 1, 4), k, v, tags, tags[:, -size:]
        runs = {}
        for threshold in (0.0, *thresholds):
            policy = S2O(threshold=threshold, query_block=block, key_block=block)
            compiled = jax.jit(functools.partial(s2o_attend, policy, Scores(scale=width**-0.5)))
            runs[f"{threshold:g}"] = functools.partial(compiled, *arguments)
        found = {name: jax.block_until_ready(run()) for name, run in runs.items()}
        clocks = {name: functools.partial(seconds, run) for name, run in runs.items()}
        best = {name: timing.best for name, timing in in_turns(clocks, rounds).items()}
        exact = np.asarray(found["0"].out)
        for name, one in found.items():
            error = np.linalg.norm(one.out - exact) / np.linalg.norm(exact)
            density = float(one.read.sum() / one.visible.sum())
            rows.append(
                [f"{length:,}", name, density, 1e3 * best[name], best[name] / best["0"], float(error)]
            )
        times[str(length)] = best
    return Table(
        caption=f"S2O: attention of the last {size:,} tokens of a prompt",
        columns=["prompt", "threshold", "density", "ms", "× threshold 0", "error, relative L2"],
        rows=rows,
    ), times


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def greedy(
    config: Decoder, params: Params, tokens: Int[Array, "B 1"], cache: Cache, steps: Array
) -> tuple[Int[Array, "B 1"], Cache]:
    """The newest token and the cache after `steps` more."""

    def step(_: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        scored, pending = config.peek(params, carry[0], carry[1])
        return jnp.argmax(scored.logits, -1).astype(jnp.int32), config.commit(pending)

    return lax.fori_loop(0, steps, step, (tokens, cache))


def model_decoding(
    model: jm.Model, chosen: Mapping[str, CachePolicy], length: int, batch: int, steps: int, rounds: int
) -> dict[str, float]:
    """Seconds per step of the whole model, by policy, after `length` hidden states in every layer."""
    x = jnp.asarray(walk(length, model.config.d_model))[None].repeat(batch, 0)

    def clock(policy: CachePolicy) -> Callable[[], float]:
        config = with_cache_policy(model.config, policy)
        layers = []
        for i, block in enumerate(config.blocks):
            assert isinstance(block.mixer, Attention)
            params = model.params["blocks"][str(i)]["mixer"]
            layers.append(filled(block.mixer, params, x, length + steps * (rounds + 1)))
        carry = jnp.ones((batch, 1), jnp.int32), Cache(jnp.full((batch,), length), tuple(layers))

        def turn() -> float:
            def run() -> Any:
                nonlocal carry
                carry = greedy(config, model.params, *carry, steps)
                return carry

            return seconds(run) / steps

        turn()
        return turn

    timings = in_turns({name: clock(policy) for name, policy in chosen.items()}, rounds)
    return {name: timing.best for name, timing in timings.items()}


def text_tokens(model: jm.Model, rows: int, size: int) -> Int[Array, "B S"]:
    """The beginnings of held-out files, as many tokens of each."""
    assert model.tokenizer is not None
    found = []
    for path in resolve_files([STDLIB_HELD_OUT]):
        ids = model.tokenizer.backend.encode(path.read_text("utf-8", "replace")[: 16 * size]).ids
        if len(ids) >= size:
            found.append(ids[:size])
        if len(found) == rows:
            break
    return jnp.asarray(found, jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def predictions(
    config: Decoder, params: Params, tokens: Int[Array, "B S"], prompt: int
) -> Float[Array, "S B V"]:
    """Log-probabilities after each token from `prompt` on; all are shown one by one."""

    def step(cache: Cache, token: Int[Array, "B"]) -> tuple[Cache, Float[Array, "B V"]]:
        scored, pending = config.peek(params, token[:, None], cache)
        return config.commit(pending), jax.nn.log_softmax(scored.logits[:, 0])

    return lax.scan(step, config.init_cache(*tokens.shape), tokens.T)[1][prompt:]


def prediction_errors(budgets: Sequence[int], rows: int, size: int) -> Table:
    """What each policy and budget changes in a trained model's predictions."""
    model = jm.load("tiny-qwen3", dtype="float32")
    tokens, prompt = text_tokens(model, rows, size), size // 2
    following = tokens[:, prompt + 1 :].T[..., None]
    dense = predictions(model.config, model.params, tokens, prompt)
    shown: list[list[Any]] = []
    chosen = {
        "dense": FULL_CACHE,
        **{
            name: policy
            for budget in budgets
            for name, policy in policies(budget, page=8, longest_peek=1).items()
        },
    }
    for name, policy in chosen.items():
        ours = predictions(with_cache_policy(model.config, policy), model.params, tokens, prompt)
        divergence = (jnp.exp(dense) * (dense - ours)).sum(-1).mean() / np.log(2)
        bits = -jnp.take_along_axis(ours[:-1], following, axis=-1).mean() / np.log(2)
        agreement = (ours.argmax(-1) == dense.argmax(-1)).mean()
        shown.append([name, float(divergence), float(bits), float(agreement)])
    return Table(
        caption=f"tiny-qwen3: tokens {prompt + 1} to {size} of {len(tokens)} held-out files, one by one",
        columns=["policy", "divergence from dense (bits/token)", "text (bits/token)", "same first choice"],
        rows=shown,
    )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured. block: S2O's blocks. texts: files, and tokens of each."""

    lengths: tuple[int, ...] = (8192, 16384)
    budgets: tuple[int, ...] = (512, 1024, 2048)
    page: int = 64
    batches: tuple[int, ...] = (1, 4)
    block: int = 256
    kept: tuple[int, ...] = (32, 64, 128, 256)
    texts: tuple[int, int] = (8, 512)
    steps: int = 16
    rounds: int = 6


QUICK = Sizes(
    lengths=(512, 1024), budgets=(32, 64, 128), page=4, batches=(1, 2), block=16, kept=(32,), texts=(2, 96),
    steps=4, rounds=2,
)  # fmt: skip


def measure(sizes: Sizes, model: jm.Model) -> Result:
    """All tables."""
    layer = model.config.blocks[0].mixer
    assert isinstance(layer, Attention)
    length, steps, rounds = sizes.lengths[-1], sizes.steps, sizes.rounds
    streaming = tuple(range(layer.num_kv_heads // 2))
    chosen: dict[str, CachePolicy] = {"dense": FULL_CACHE}
    for budget in sizes.budgets:
        of_budget = policies(budget, sizes.page, streaming)
        names = list(of_budget) if budget == sizes.budgets[1] else list(of_budget)[:1]
        chosen |= {name: of_budget[name] for name in names}
    name = f"LServe, budget {sizes.budgets[1]:,}"
    decoding, layer_times = layer_decoding(layer, sizes.lengths, chosen, steps, rounds)
    prefill, prefill_times = early_stop(layer, sizes.lengths, [1e-4, 1e-3, 1e-2], sizes.block, rounds)
    errors = prediction_errors(sizes.kept, *sizes.texts)
    pair = {"dense": FULL_CACHE, name: chosen[name]}
    models = {batch: model_decoding(model, pair, length, batch, steps, rounds) for batch in sizes.batches}
    whole = Table(
        caption=f"The whole model, {len(model.config.blocks)} layers, {length:,} tokens of context",
        columns=["batch", "dense (ms/step)", f"{name} (ms/step)", "× dense"],
        rows=[[b, 1e3 * t["dense"], 1e3 * t[name], t[name] / t["dense"]] for b, t in models.items()],
    )
    ratios = {"attention layer, batch 1": layer_times[str(length)]}
    ratios |= {f"model, batch {batch}": times for batch, times in models.items()}
    targets = [
        Target(
            what=f"{name} over dense, {length:,} tokens: {what}",
            measured=times[name] / times["dense"],
            sense="at most",
            aim=1 / 3,
        )
        for what, times in ratios.items()
    ]
    return Result(
        name="sparse",
        title="Sparse attention and bounded caches",
        method=(
            f"Random float32 weights and hidden states (neighbours have a correlation of {CORRELATION}), "
            f"{steps} tokens per turn, best of {rounds} turns; {len(streaming)} of {layer.num_kv_heads} key "
            "heads stream under LServe. Keys read: per token and head over the context, bounds of pages "
            f"included. S2O on states of the same kind, logits of standard deviation {SHARPNESS:g}. "
            "Predictions: trained weights, no streaming heads."
        ),
        values={
            "layer_decode_s": layer_times,
            "s2o_prefill_s": prefill_times,
            "model_decode_s": {str(batch): times for batch, times in models.items()},
        },
        tables=[decoding, whole, errors, prefill],
        targets=targets,
    )


def main() -> None:
    parser = argument_parser(__doc__)
    arguments = parser.parse_args()
    model = jm.init(jm.config_from_hf(shape("qwen3-100m", tiny=arguments.quick)))
    publish(measure(QUICK if arguments.quick else Sizes(), model), arguments)


if __name__ == "__main__":
    main()
