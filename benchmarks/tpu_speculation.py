"""What parallel decoding would gain on TPUs: from compiled programs, and the acceptance that was measured.

    python -m benchmarks.tpu_speculation

No TPU is involved. The window programs of an 8B model (score S tokens behind a history of 2,048, settle some)
are compiled for one chip in bfloat16 with one and with two layers, of which the difference is a layer; bytes
and operations of 36 are their sum. The time of a program is the larger of its bytes over the memory's
bandwidth and its operations over the peak, as if the whole model were on one chip. The compiler counts what
it copies into on-chip memory as accessed, so that times are too long, and their ratios what counts.

How many tokens a window emits is what `benchmarks.parallel_decode` recorded on small trained models: the
projection says what an 8B model would gain if its drafts were accepted as often, and one step of the draft
cost `DRAFT_SHARE` of a step of the model.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels as jm
from benchmarks.common import Result, Table, argument_parser, publish
from benchmarks.report import RESULTS
from benchmarks.tpu_programs import MAMBA2_130M, QWEN3_8B, TINY
from jaxmodels.layers.spec import abstract_params
from jaxmodels.tpu_configs.compiler import ENVIRONMENT, topology_device

LAYERS = 36
# Shape of a Mamba-2 of about as many parameters as Qwen3-8B: state-spaces/mamba2-2.7b, wider.
MAMBA2_8B = MAMBA2_130M | {"hidden_size": 4096, "num_heads": 128, "n_groups": 8, "vocab_size": 151936}
MODELS: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "qwen3 8B": (QWEN3_8B, LAYERS),
    "mamba2 8B": (MAMBA2_8B, 56),
}
WINDOWS = (1, 2, 4, 8, 16)
# What a step of a draft costs beside one of the model: it has a tenth of the parameters.
DRAFT_SHARE = 0.1
HISTORY = 2048


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Bandwidth of the memory in bytes per second, and bfloat16 operations per second, as Google states them
    (https://cloud.google.com/tpu/docs/system-architecture-tpu-vm)."""

    topology: str
    bandwidth: float
    peak: float


CHIPS = {
    "v5e": Chip(topology="v5e:2x2", bandwidth=819e9, peak=197e12),
    "v6e": Chip(topology="v6e:2x2", bandwidth=1638e9, peak=918e12),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Bytes accessed and operations of a program, by the compiler's own analysis."""

    bytes: float
    flops: float

    def seconds(self, chip: Chip) -> float:
        """By whichever of the two takes longer."""
        return max(self.bytes / chip.bandwidth, self.flops / chip.peak)


def window_cost(values: Mapping[str, Any], layers: int, size: int, chip: Chip, history: int) -> Cost:
    """That of one window of `size` tokens behind a history, with `layers` layers and the head."""
    config: Any = jm.config_from_hf({**values, "num_hidden_layers": layers})
    device = jax.sharding.SingleDeviceSharding(topology_device(chip.topology))

    def step(params: Any, tokens: Any, cache: Any, valid: Any) -> Any:
        scored, pending = config.peek(params, tokens, cache, valid=valid)
        choices = jnp.argmax(scored.logits, axis=-1).astype(jnp.int32)
        if size == 1:
            return choices, config.commit(pending)
        right = jnp.cumprod(choices[:, :-1] == tokens[:, 1:], axis=1).sum(1)
        return choices, config.commit(pending, 1 + right)

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree)

    dtype = jnp.dtype("bfloat16")
    cache = jax.eval_shape(lambda: config.init_cache(1, history + 2 * max(WINDOWS), dtype))
    arguments = (
        abstract_params(config.spec(), dtype),
        jax.ShapeDtypeStruct((1, size), jnp.int32),
        cache,
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    compiled = jax.jit(step, donate_argnums=2).lower(*placed(arguments)).compile()
    cost = compiled.cost_analysis()
    assert cost is not None
    return Cost(bytes=cost["bytes accessed"], flops=cost["flops"])


def deep(one: Cost, two: Cost, layers: int) -> Cost:
    """A program of `layers` layers, from those of one and of two."""
    return Cost(
        bytes=one.bytes + (layers - 1) * (two.bytes - one.bytes),
        flops=one.flops + (layers - 1) * (two.flops - one.flops),
    )


def costs(quick: bool) -> dict[str, dict[str, dict[int, Cost]]]:
    """By model, chip and size of the window."""
    found: dict[str, dict[str, dict[int, Cost]]] = {}
    for model, (values, layers) in MODELS.items():
        shape = {**values, **TINY[values["model_type"]]} if quick else values
        for name, chip in CHIPS.items():
            sizes = found.setdefault(model, {}).setdefault(name, {})
            for size in WINDOWS[:2] if quick else WINDOWS:
                one, two = (window_cost(shape, n, size, chip, 64 if quick else HISTORY) for n in (1, 2))
                sizes[size] = deep(one, two, layers)
    return found


def window_rows(found: Mapping[str, Mapping[str, Mapping[int, Cost]]]) -> list[list[str | float | None]]:
    """A row per window."""
    rows: list[list[str | float | None]] = []
    for model, of_model in found.items():
        for name, of_chip in of_model.items():
            chip, one = CHIPS[name], of_chip[1].seconds(CHIPS[name])
            for size, cost in of_chip.items():
                took = cost.seconds(chip)
                bound = "memory" if cost.bytes / chip.bandwidth >= cost.flops / chip.peak else "operations"
                rows.append(
                    [model, name, size, cost.bytes / 2**30, cost.flops / 1e9, 1e3 * took, took / one, bound]
                )
    return rows


def projected_rows(found: Mapping[str, Mapping[str, Mapping[int, Cost]]]) -> list[list[str | float | None]]:
    """A row per chip, model and recorded draft: what it would gain."""
    record = RESULTS / "parallel_decode.json"
    if not record.is_file():
        return []
    rows: list[list[str | float | None]] = []
    for text, strategies in json.loads(record.read_text("utf-8"))["values"].items():
        for strategy, values in strategies.items():
            if not (named := re.fullmatch(r"distilled draft, (\d+)", strategy)):
                continue
            size, emitted = int(named[1]), values["tokens_per_call"]
            for model, of_model in found.items():
                for name, of_chip in of_model.items():
                    seconds = {window: cost.seconds(CHIPS[name]) for window, cost in of_chip.items()}
                    window = min(window for window in seconds if window > size or window == max(seconds))
                    round_ = seconds[window] + size * DRAFT_SHARE * seconds[1]
                    rows.append([model, name, f"{text}: {strategy}", emitted, emitted * seconds[1] / round_])
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    arguments = parser.parse_args()
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    found = costs(arguments.quick)
    publish(
        Result(
            name="tpu_speculation",
            title="Parallel decoding on TPUs, projected",
            method=f"Compiled for one chip from shapes alone, bfloat16, batch 1, behind {HISTORY} tokens, "
            "layers extrapolated from one and two; the time is the larger of bytes over bandwidth and "
            "operations over peak. Nothing ran on a TPU.",
            values={
                model: {
                    chip: {str(size): asdict(cost) for size, cost in sizes.items()}
                    for chip, sizes in of_model.items()
                }
                for model, of_model in found.items()
            },
            tables=[
                Table(
                    caption="Windows",
                    columns=["model", "chip", "tokens", "GiB", "GFLOP", "ms", "over one token", "bound by"],
                    rows=window_rows(found),
                ),
                Table(
                    caption="Speed over one token at a time, projected with the acceptance measured on small "
                    "models",
                    columns=["model", "chip", "draft", "tokens per call", "speed"],
                    rows=projected_rows(found),
                ),
            ],
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
