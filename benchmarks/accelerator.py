"""Prefill and decoding in bfloat16 on an accelerator, as shares of what it can do, beside PyTorch on it.

    python -m benchmarks.accelerator

Each shape has random weights, which `transformers` gets copies of. Decoding at batch 1 must read every weight
once per token, so it is told as a share of the memory's bandwidth; a prefill is told as a share of the rate
of matrix products. Both limits are the card's published ones where this script knows them, else those that
large sums and products reach in the same run, which are told in any case.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

import jaxmodels as jm
from benchmarks.common import Result, Table, argument_parser, in_turns, publish, random_tokens, seconds
from benchmarks.decode_prefill import bytes_per_token
from benchmarks.peers import JaxModels, Speed, Transformers
from benchmarks.shapes import ACCELERATOR, shape
from jaxmodels.checkpoints.huggingface import exported
from jaxmodels.layers.spec import count_params
from jaxmodels.models.families import FAMILIES

OURS, THEIRS = "jaxmodels", "transformers, PyTorch"
MATRIX = 8192  # rows and columns of the product that tells the peak
PASSES = 8  # of a measured limit, one behind the other, so that starting the first does not count


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the device can do. read_gb_s: the rate of reading memory. tflop_s: that of bfloat16 products."""

    read_gb_s: float
    tflop_s: float


# What makers publish, without sparsity, by the name that JAX gives the device.
PUBLISHED = {"NVIDIA H100 80GB HBM3": Limits(read_gb_s=3350.0, tflop_s=989.0)}


def measured_limits(rounds: int, size: int = MATRIX) -> Limits:
    """The best of several turns of one large sum and of one large product in bfloat16."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    large = jnp.ones((16 * size * size,), jnp.bfloat16)
    total = jax.jit(lambda x: x.astype(jnp.float32).sum())
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready((total(large), product(matrix)))
    clocks: dict[str, Callable[[], float]] = {
        "sum": lambda: seconds(lambda: [total(large) for _ in range(PASSES)]),
        "product": lambda: seconds(lambda: [product(matrix) for _ in range(PASSES)]),
    }
    timings = in_turns(clocks, max(rounds, 3))
    return Limits(
        read_gb_s=PASSES * large.nbytes / timings["sum"].best / 1e9,
        tflop_s=PASSES * 2 * size**3 / timings["product"].best / 1e12,
    )


def copied(model: jm.Model, values: Mapping[str, Any]) -> Any:
    """The model of `transformers` with the same weights, on the accelerator that PyTorch finds."""
    rest = {key: value for key, value in values.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(values["model_type"], **rest)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    places = dict(theirs.named_parameters())
    family = FAMILIES[str(model.decoder.family)]
    for tensor in exported(family.tensors(model.decoder).values(), model.params):
        if tensor.name in places:  # a tied head is not stored
            raw = np.ascontiguousarray(np.asarray(tensor.read()).astype(jnp.bfloat16)).view(np.int16)
            with torch.no_grad():
                places[tensor.name].copy_(torch.from_numpy(raw).view(torch.bfloat16))
    return theirs.eval()


def measure(
    values: Mapping[str, Any], prompt: int, new: int, rounds: int, *, with_peer: bool
) -> tuple[jm.Model, dict[str, Speed]]:
    """Everyone's medians, at batch 1."""
    model = jm.init(jm.config_from_hf(dict(values)), seed=0, dtype="bfloat16")
    tokens = random_tokens(values["vocab_size"], prompt)
    contestants: dict[str, Any] = {OURS: JaxModels(model, tokens, new)}
    if with_peer:
        contestants[THEIRS] = Transformers(copied(model, values), tokens, new)
    clocks: dict[str, Callable[[], float]] = {
        f"{who}: {what}": clock for who, it in contestants.items() for what, clock in it.clocks().items()
    }
    timings = in_turns(clocks, rounds)
    by_name = {
        who: it.speed({name.removeprefix(f"{who}: "): t.median for name, t in timings.items() if who in name})
        for who, it in contestants.items()
    }
    return model, by_name


def row(
    name: str, who: str, speed: Speed, ours: Speed, model: jm.Model, sizes: tuple[int, int], limits: Limits
) -> list[str | float | None]:
    """One line of the table."""
    prompt, new = sizes
    _, moved = bytes_per_token(model, prompt + new // 2)
    inside = count_params(model.config.spec()) - model.params["embed"]["weight"].size
    return [
        name,
        who,
        1e3 * speed.decode,
        moved / speed.decode / 1e9 / limits.read_gb_s,
        1e3 * speed.prefill_last,
        2 * inside * prompt / speed.prefill_last / 1e12 / limits.tflop_s,
        speed.decode / ours.decode,
        speed.prefill_last / ours.prefill_last,
    ]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(ACCELERATOR), default=list(ACCELERATOR))
    parser.add_argument("--prompt", type=int, default=2048, help="tokens in the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    parser.add_argument("--alone", nargs="*", default=[], help="shapes that no peer runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompt, arguments.new, arguments.rounds = 40, 8, 1
    measured = measured_limits(arguments.rounds, 256 if arguments.quick else MATRIX)
    device = jax.devices()[0].device_kind
    limits = PUBLISHED.get(device, measured)
    rows: list[list[str | float | None]] = []
    medians: dict[str, Any] = {}
    for name in arguments.shapes:
        values = shape(name, tiny=arguments.quick)
        with_peer = name not in arguments.alone
        model, by_name = measure(
            values, arguments.prompt, arguments.new, arguments.rounds, with_peer=with_peer
        )
        sizes = arguments.prompt, arguments.new
        medians[name] = {who: asdict(speed) for who, speed in by_name.items()}
        rows += [row(name, who, it, by_name[OURS], model, sizes, limits) for who, it in by_name.items()]
        print(rows[-len(by_name) :], flush=True)
        del model, by_name
        gc.collect()
        torch.cuda.empty_cache()
    publish(
        Result(
            name="accelerator",
            title="Prefill and decoding on an accelerator",
            method=f"{device}, bfloat16, random weights, batch 1, a prompt of {arguments.prompt} tokens and "
            f"{arguments.new} new ones, {arguments.rounds} turns. Shares are of {limits.read_gb_s:,.0f} "
            f"GB/s and {limits.tflop_s:,.0f} TFLOP/s; in the same run sums read {measured.read_gb_s:,.0f} "
            f"GB/s, and products of {MATRIX} x {MATRIX} matrices ran at {measured.tflop_s:,.0f} TFLOP/s. "
            "`transformers` has the same weights, eagerly, the faster of its `generate` and a bare loop; "
            "Mamba-2 in PyTorch's operations, without kernels of its own.",
            values={"limits": asdict(limits), "measured": asdict(measured), "median_s": medians},
            tables=[
                Table(
                    caption="Medians of the turns, batch 1, greedy",
                    columns=[
                        "shape", "", "decode (ms/token)", "share of bandwidth",
                        f"prefill {arguments.prompt} (ms)", "share of peak",
                        "decode: × our time", "prefill: × our time",
                    ],
                    rows=rows,
                )
            ],
            targets=[],
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
