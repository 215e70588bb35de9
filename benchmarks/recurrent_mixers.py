"""Recurrent mixers, layer by layer: ours and the transformers module, on the same weights.

    python -m benchmarks.recurrent_mixers

For every mixer, the prefill of 512 tokens, and one decoded token after a short and after a long history. A
step of a recurrence must cost the same after both. Theirs is what transformers runs on a CPU: the fallback in
PyTorch, called in a loop; ours is one program per prefill and one for all steps.
"""

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from jax import lax
from jaxtyping import Array, Float
from transformers.models.minimax.modeling_minimax import MiniMaxCache

import jaxmodels as jm
from benchmarks.common import (
    Result,
    Table,
    Target,
    Timing,
    argument_parser,
    cores,
    in_turns,
    products_alone,
    publish,
    seconds,
)
from jaxmodels.layers.spec import Params, init_state
from jaxmodels.layers.window import Mixer, Window, peek

TOLERANCE = 1e-4
WINDOW = 512  # longer histories are fed in windows of this size


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mixer: the only or the first one of a small model of transformers.

    config: the model's. module: where the mixer is in it. call: runs it on hidden states that follow a
    history of so many tokens in a cache: ``call(module, hidden, cache, start)``. cache: an empty one for a
    configuration.
    """

    name: str
    config: Mapping[str, Any]
    module: str
    call: Callable[[Any, torch.Tensor, Any, int], torch.Tensor]
    cache: Callable[[Any], Any] = lambda config: transformers.DynamicCache(config=config)


def with_cache(module: Any, hidden: torch.Tensor, cache: Any, start: int) -> torch.Tensor:
    """How most mixers are called."""
    return module(hidden, cache=cache)


def with_positions(module: Any, hidden: torch.Tensor, cache: Any, start: int) -> torch.Tensor:
    """RecurrentGemma's mixer keeps its state in itself; at position 0 it starts anew."""
    positions = torch.arange(start, start + hidden.shape[1])[None]
    return module(hidden, position_ids=positions, attention_mask=None, use_cache=True)[0]


def with_attention_arguments(module: Any, hidden: torch.Tensor, cache: Any, start: int) -> torch.Tensor:
    """MiniMax gives lightning attention what attention takes; it reads the cache alone."""
    return module(hidden, position_embeddings=None, attention_mask=None, cache=cache)[0]


def cases(width: int) -> Sequence[Case]:
    """The table of mixers, all of one model width."""
    sizes = {"vocab_size": 64, "hidden_size": width, "num_hidden_layers": 1, "pad_token_id": 0}
    mamba2 = {"num_heads": 2 * width // 32, "head_dim": 32, "state_size": 128, "n_groups": 1}
    griffin = {"intermediate_size": 64, "num_attention_heads": width // 64, "block_types": ["recurrent"]}
    lfm2 = {"intermediate_size": 64, "num_attention_heads": width // 64, "num_key_value_heads": 1}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    linear = {"layer_types": ["linear_attention"], "intermediate_size": 64, "num_experts": 2, **heads}
    delta = {"linear_num_key_heads": max(width // 128, 1), "linear_num_value_heads": width // 64}
    delta |= {"linear_key_head_dim": 64, "linear_value_head_dim": 64, "num_experts_per_tok": 1}
    kimi = {"linear_num_heads": width // 64, "linear_head_dim": 64, "num_experts_per_token": 1}
    backbone, layer = "backbone.layers.0.mixer", "model.layers.0"
    return (
        Case(name="Mamba", config={"model_type": "mamba", **sizes}, module=backbone, call=with_cache),
        Case(
            name="Falcon Mamba", config={"model_type": "falcon_mamba", **sizes}, module=backbone,
            call=with_cache,
        ),
        Case(
            name="Mamba-2", config={"model_type": "mamba2", **sizes, **mamba2}, module=backbone,
            call=with_cache,
        ),
        Case(
            name="RG-LRU", config={"model_type": "recurrent_gemma", **sizes, **griffin},
            module=f"{layer}.temporal_block", call=with_positions,
        ),
        Case(
            name="short convolution",
            config={"model_type": "lfm2", **sizes, **lfm2, "layer_types": ["conv"]},
            module=f"{layer}.conv", call=with_cache,
        ),
        Case(
            name="gated delta rule", config={"model_type": "qwen3_next", **sizes, **linear, **delta},
            module=f"{layer}.linear_attn", call=with_cache,
        ),
        Case(
            name="gated delta rule, a decay per channel",
            config={"model_type": "kimi_linear", **sizes, **linear, **kimi},
            module=f"{layer}.self_attn", call=with_cache,
        ),
        Case(
            name="lightning attention", config={"model_type": "minimax", **sizes, **linear},
            module=f"{layer}.self_attn", call=with_attention_arguments, cache=lambda config: MiniMaxCache(),
        ),
    )  # fmt: skip


class Theirs:
    """A mixer of transformers, with a history of its own for each context."""

    def __init__(self, case: Case, directory: Path) -> None:
        torch.set_num_threads(cores())
        config = transformers.AutoConfig.for_model(**case.config)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(directory)
        self.case, self.config, self.module = case, config, attrgetter(case.module)(model)

    @torch.inference_mode()
    def run(self, hidden: torch.Tensor, cache: Any, start: int = 0) -> torch.Tensor:
        return self.case.call(self.module, hidden, cache, start)

    def after(self, history: np.ndarray) -> Any:
        """A cache that holds the history."""
        cache = self.case.cache(self.config)
        self.run(torch.tensor(history), cache)
        return cache

    def prefill(self, x: np.ndarray) -> np.ndarray:
        return self.run(torch.tensor(x), self.case.cache(self.config)).numpy()

    def decode(self, tokens: np.ndarray, cache: Any, start: int) -> np.ndarray:
        """Token by token, [1, steps, D]."""
        parts = [torch.tensor(tokens[:, i : i + 1]) for i in range(tokens.shape[1])]
        outputs = [self.run(part, cache, start + i) for i, part in enumerate(parts)]
        return torch.cat(outputs, dim=1).numpy()


@dataclass(frozen=True)
class Ours:
    """The same mixer of this package, from the checkpoint of theirs."""

    mixer: Mixer
    params: Params

    @classmethod
    def load(cls, directory: Path) -> "Ours":
        model = jm.load(directory, dtype="float32")
        mixer = model.config.blocks[0].mixer
        assert mixer is not None
        return cls(mixer, model.params["blocks"]["0"]["mixer"])

    def empty(self) -> Any:
        return init_state(self.mixer, 1, WINDOW, jnp.float32)

    def after(self, history: np.ndarray) -> Any:
        """The state that the history leaves behind."""
        state = self.empty()
        for start in range(0, history.shape[1], WINDOW):
            part = jnp.asarray(history[:, start : start + WINDOW])
            _, state = _window(self.mixer, self.params, part, state, jnp.asarray(start))
        return state

    def prefill(self, x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        return _window(self.mixer, self.params, x, self.empty(), jnp.asarray(0))[0]

    def decode(self, tokens: Float[Array, "1 S D"], state: Any, start: int) -> Float[Array, "1 S D"]:
        return _steps(self.mixer, self.params, tokens, state, jnp.asarray(start))


@functools.partial(jax.jit, static_argnums=0)
def _window(mixer: Mixer, params: Params, x: Array, state: Any, start: Array) -> tuple[Array, Any]:
    """One window: its outputs and the state behind it."""
    size = x.shape[1]
    window = Window(
        start=start[None], positions=start + jnp.arange(size)[None], valid=jnp.full((1,), size, jnp.int32)
    )
    y, pending = peek(mixer, params, x, state, window)
    return y, mixer.commit(pending)


@functools.partial(jax.jit, static_argnums=0)
def _steps(mixer: Mixer, params: Params, tokens: Array, state: Any, start: Array) -> Array:
    """One token after another."""

    def step(carry: tuple[Any, Array], token: Array) -> tuple[tuple[Any, Array], Array]:
        state, at = carry
        y, state = _window(mixer, params, token[:, None], state, at)
        return (state, at + 1), y[:, 0]

    _, outputs = lax.scan(step, (state, start), jnp.swapaxes(tokens, 0, 1))
    return jnp.swapaxes(outputs, 0, 1)


def agree(what: str, ours: Any, theirs: np.ndarray) -> float:
    """The largest difference relative to the largest output; SystemExit where it is too large."""
    difference = float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
    if difference > TOLERANCE:
        raise SystemExit(f"{what}: ours and theirs differ by {difference:.1e}")
    return difference


def measure(
    case: Case, size: int, contexts: Sequence[int], steps: int, rounds: int
) -> tuple[dict[str, Timing], float]:
    """Seconds of prefill and of a step by context, of both; and how far they are apart."""
    with tempfile.TemporaryDirectory() as directory:
        theirs = Theirs(case, Path(directory))
        ours = Ours.load(Path(directory))
    rng = np.random.default_rng(0)
    width = case.config["hidden_size"]
    x, tokens = (rng.standard_normal((1, n, width)).astype(np.float32) for n in (size, steps))
    on_device, next_tokens = jnp.asarray(x), jnp.asarray(tokens)
    difference = agree(f"{case.name}, prefill", ours.prefill(on_device), theirs.prefill(x))
    clocks: dict[str, Callable[[], float]] = {
        "ours: prefill": lambda: seconds(lambda: ours.prefill(on_device)),
        "theirs: prefill": lambda: seconds(lambda: theirs.prefill(x)),
        "products alone": products_alone(ours.params, size),
    }
    for context in contexts:
        history = rng.standard_normal((1, context, width)).astype(np.float32)
        state, cache = ours.after(history), theirs.after(history)
        found = agree(
            f"{case.name}, steps after {context}",
            ours.decode(next_tokens, state, context),
            theirs.decode(tokens, cache, context),
        )
        difference = max(difference, found)
        # Their caches grow older with every turn, which costs nothing.
        clocks[f"ours: step after {context}"] = lambda state=state, context=context: (
            seconds(lambda: ours.decode(next_tokens, state, context)) / steps
        )
        clocks[f"theirs: step after {context}"] = lambda cache=cache, context=context: (
            seconds(lambda: theirs.decode(tokens, cache, context)) / steps
        )
    return in_turns(clocks, rounds), difference


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=int, default=768, help="model width of all layers")
    parser.add_argument("--steps", type=int, default=256, help="tokens decoded per turn")
    parser.add_argument("--rounds", type=int, default=10, help="turns of every measurement")
    arguments = parser.parse_args()
    size, contexts = 512, (128, 8192)
    if arguments.quick:
        size, contexts = 40, (16, 96)
        arguments.width, arguments.steps, arguments.rounds = 64, 4, 1

    rows: list[list[str | float | None]] = []
    targets, runs, differences = [], {}, {}
    for case in cases(arguments.width):
        timings, difference = measure(case, size, contexts, arguments.steps, arguments.rounds)
        runs[case.name] = {name: timing.runs for name, timing in timings.items()}
        differences[case.name] = difference
        medians = {name: timing.median for name, timing in timings.items()}
        names = [f"ours: step after {context}" for context in contexts]
        steps = [timings[name].median for name in names]
        gain = medians["theirs: prefill"] / medians["ours: prefill"]
        rows.append(
            [
                case.name, 1e3 * medians["ours: prefill"], 1e3 * medians["theirs: prefill"], gain,
                1e3 * medians["products alone"],
                *(1e3 * medians[name] for name in names),
                *(1e3 * medians[f"theirs: step after {context}"] for context in contexts),
            ]
        )  # fmt: skip
        targets += [
            Target(what=f"{case.name}: prefill, times Transformers", measured=gain, sense="at least", aim=2),
            Target(
                what=f"{case.name}: step after {contexts[1]:,} tokens over {contexts[0]:,}, medians",
                measured=steps[1] / steps[0], sense="at most", aim=1.05,
            ),
        ]  # fmt: skip
    columns = [
        "", f"prefill {size} (ms)", "Transformers", "× our time", "its matrix products alone (ms)",
        *(f"step after {context:,} (ms)" for context in contexts),
        *(f"Transformers after {context:,}" for context in contexts),
    ]  # fmt: skip
    publish(
        Result(
            name="recurrent_mixers",
            title="Recurrent mixers, one layer each",
            method=f"Random float32 weights, width {arguments.width}, batch 1, the mixer alone; "
            f"{arguments.steps} steps per turn, {arguments.rounds} turns, their medians. Outputs agree to "
            f"{max(differences.values()):.0e} of the largest. Both leave the projections' "
            "matrix products to a library; nothing can be faster than these.",
            values={"runs_s": runs, "relative_differences": differences},
            tables=[Table(caption="Medians of the turns", columns=columns, rows=rows)],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
