"""What XLA made of the decoding programs: work, memory, aliasing, compilations, callbacks. No clock involved.

    python -m benchmarks.compiled_properties

The programs are compiled from shapes alone, without weights.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish, random_tokens
from benchmarks.shapes import shape
from jaxmodels.decoding import Autoregressive, driver
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.attend import KEY_BLOCK
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.spec import abstract_params, count_params
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.decoder import Decoder

STRATEGY = Autoregressive()
COMPILED = "/jax/core/compile/backend_compile_duration"
PROMPT, NEW = 128, 64


@dataclass(frozen=True)
class Programs:
    """The programs of one model for batch 1 and a cache of `capacity` slots, from shapes."""

    config: Decoder
    capacity: int

    def request(self) -> Request:
        def number(*shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, jnp.int32)

        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        return Request(
            tokens=number(1, PROMPT), lengths=number(1), max_new=number(), stop_tokens=number(4),
            pad_token=number(), keys=keys,
        )  # fmt: skip

    def cache(self) -> Any:
        return jax.eval_shape(lambda: self.config.init_cache(1, self.capacity))

    def step(self) -> Any:
        """One token: the body of the loop, compiled on its own."""
        params, request = abstract_params(self.config.spec()), self.request()
        carry = jax.eval_shape(
            lambda p, r, c: driver.start(p, r, c, STRATEGY, config=self.config, max_new=NEW),
            params, request, self.cache(),
        )  # fmt: skip
        step = jax.jit(lambda p, r, c: STRATEGY.step(self.config, p, r, c), donate_argnums=2)
        return step.lower(params, request, carry).compile()

    def generate(self) -> Any:
        """The whole generation."""
        lowered = driver.generate.lower(
            abstract_params(self.config.spec()), self.request(), self.cache(), STRATEGY,
            config=self.config, max_new=NEW,
        )  # fmt: skip
        return lowered.compile()


def needed_flops(config: Decoder) -> dict[str, float]:
    """Operations that one token cannot do without: 2 per weight it meets, and the mixers' own.

    Recurrences: decay, input and read-out of every state entry (5), and the convolution's taps (2).
    Attention: scores and weighted sum (4 per head, head dimension and slot); as XLA counts the body of a loop
    once, one block of slots.
    """
    weights = count_params(config.spec())
    if not config.tie_embeddings:
        weights -= config.vocab_size * config.d_model
    mixers = 0.0
    for block in config.blocks:
        mixer = block.mixer
        if isinstance(mixer, SSDMixer):
            mixers += 5 * mixer.d_inner * mixer.state_dim + 2 * mixer.conv_width * mixer.d_conv
        elif isinstance(mixer, Attention):
            mixers += 4 * mixer.num_heads * mixer.head_dim * KEY_BLOCK
    return {"weights": 2.0 * weights, "mixers": mixers}


def cache_bytes(cache: Any) -> int:
    """Size of the buffers of a cache given by shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


def host_calls(compiled: Any) -> list[str]:
    """Custom calls and transfers of a program that involve the host's Python or its memory."""
    text = compiled.as_text()
    targets = set(re.findall(r'custom_call_target="([^"]+)"', text))
    operations = set(re.findall(r"\b(infeed|outfeed|send|recv)\(", text))
    return sorted({target for target in targets if "callback" in target.lower()} | operations)


def compilations(call: Callable[[], Any]) -> int:
    """How many programs the backend compiles during a call."""
    count = 0

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal count
        count += event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count


def recompilations(values: Mapping[str, Any]) -> dict[str, int]:
    """Backend compilations of `Model.generate` with prompts that differ in length, texts and settings."""
    model = jm.init(jm.config_from_hf(values))
    vocab = model.config.vocab_size

    def generate(length: int, new: int, seed: int, stop: list[int]) -> Callable[[], Any]:
        prompt = random_tokens(vocab, 1, length, seed=seed)
        return lambda: model.generate(prompt, new, seed=seed, stop_tokens=stop)

    return {
        "first call": compilations(generate(33, 17, 0, [])),
        "another prompt of the same length": compilations(generate(33, 17, 1, [])),
        "another length in the bucket": compilations(generate(61, 17, 2, [])),
        "other new tokens, stop tokens and seed": compilations(generate(50, 30, 3, [1, 2])),
        "a prompt of another bucket": compilations(generate(100, 17, 4, [])),
    }


def examine(values: Mapping[str, Any], capacities: list[int]) -> dict[str, Any]:
    """All figures of one shape."""
    config = jm.config_from_hf(values)
    needed = needed_flops(config)
    small, large = (Programs(config, capacity) for capacity in capacities)
    step, whole, larger = small.step(), small.generate(), large.generate()
    counted = float(step.cost_analysis()["flops"])
    caches = cache_bytes(small.cache())
    return {
        "needed_flops": needed,
        "counted_flops": counted,
        "flops_ratio": counted / sum(needed.values()),
        "cache_bytes": caches,
        "step_alias_bytes": step.memory_analysis().alias_size_in_bytes,
        "generate_alias_bytes": whole.memory_analysis().alias_size_in_bytes,
        "temp_bytes": {
            capacity: program.memory_analysis().temp_size_in_bytes
            for capacity, program in zip(capacities, (whole, larger), strict=True)
        },
        "larger_cache_bytes": cache_bytes(large.cache()),
        "host_calls": host_calls(whole),
    }


def targets_of(name: str, it: Mapping[str, Any], compiled: Mapping[str, int]) -> list[Target]:
    """The bounds that the design sets."""
    small, large = it["temp_bytes"].values()
    again = sum(compiled[key] for key in list(compiled)[1:4])
    return [
        Target(
            what=f"{name}: operations per decoded token over those needed",
            measured=it["flops_ratio"], sense="at most", aim=1.15,
        ),
        Target(
            what=f"{name}: share of the cache that is updated in place",
            measured=it["generate_alias_bytes"] / it["cache_bytes"], sense="at least", aim=1.0,
        ),
        Target(
            what=f"{name}: temporary memory, larger capacity over smaller",
            measured=large / small, sense="at most", aim=1.05,
        ),
        Target(
            what=f"{name}: compilations for further prompts of a bucket", measured=again,
            sense="at most", aim=0,
        ),
        Target(
            what=f"{name}: calls to the host in the program", measured=len(it["host_calls"]),
            sense="at most", aim=0,
        ),
    ]  # fmt: skip


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    capacities = [512, 4096] if arguments.quick else [1024, 32768]
    names = ["mamba2-130m", "qwen3-100m"]
    rows: list[list[str | float | None]] = []
    values, targets, counts = {}, [], {}
    for name in names:
        it = examine(shape(name, tiny=arguments.quick), capacities)
        counts[name] = recompilations(shape(name, tiny=True))
        values[name] = it | {"compilations": counts[name]}
        targets += targets_of(name, it, counts[name])
        temps = [temp / 2**20 for temp in it["temp_bytes"].values()]
        rows.append(
            [
                name, it["counted_flops"] / 1e6, it["flops_ratio"], it["cache_bytes"] / 2**20,
                it["generate_alias_bytes"] / 2**20, *temps, it["larger_cache_bytes"] / 2**20,
            ]
        )  # fmt: skip
    publish(
        Result(
            name="compiled_properties",
            title="What the compiler made of it",
            method=f"Batch 1, float32, prompt bucket {PROMPT}, {NEW} new tokens; XLA's own analyses of the "
            "compiled programs. Operations needed: 2 per weight, and the recurrences' or attention's own. "
            "Compilations are those of `Model.generate`, with a toy of the same family.",
            values=values,
            tables=[
                Table(
                    caption="One decoded token, and the whole generation",
                    columns=[
                        "", "operations per token (M)", "over those needed",
                        f"cache, {capacities[0]:,} slots (MiB)", "of it updated in place (MiB)",
                        "temporary memory (MiB)", f"the same with {capacities[1]:,} slots",
                        "the cache then (MiB)",
                    ],
                    rows=rows,
                ),
                Table(
                    caption="Programs that the backend compiles",
                    columns=["call", *names],
                    rows=[[call, *(counts[name][call] for name in names)] for call in counts[names[0]]],
                ),
            ],
            targets=targets,
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
