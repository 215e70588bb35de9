"""Prefill and decoding of one sequence, beside PyTorch (`transformers`) and `mamba2-jax` on the same weights.

    python -m benchmarks.decode_prefill --shape mamba2-130m
    python -m benchmarks.decode_prefill --shape qwen3-100m
    python -m benchmarks.decode_prefill --shape qwen3-moe-200m
    python -m benchmarks.decode_prefill --shape bamba-130m
    python -m benchmarks.decode_prefill --shape deepseek-v2-120m

A checkpoint with random float32 weights is written by `transformers` and read by everyone. The contestants
must agree on the first greedy tokens, then are measured in turns. The machine's read bandwidth is measured in
the same turns: a decoded token must read every weight that it meets once, which no implementation can do
faster; of a mixture of experts it meets those of the experts it is sent to.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

import jaxmodels as jm
from benchmarks.common import (
    ReadBandwidth,
    Result,
    Table,
    Target,
    Timing,
    argument_parser,
    in_turns,
    products_alone,
    publish,
    random_tokens,
)
from benchmarks.peers import Contestant, JaxModels, Mamba2Jax, Speed, Transformers
from benchmarks.shapes import shape
from jaxmodels.layers.kv_cache import KVState
from jaxmodels.layers.latent_attention import LatentState
from jaxmodels.layers.spec import walk

# What was aimed at, as multiples of the peers' speed.
AIMS = {
    "mamba2": {
        ("Transformers", "decode"): 2.0,
        ("Transformers", "prefill"): 2.5,
        ("Mamba2Jax", "decode"): 15.0,
        ("Mamba2Jax", "prefill"): 1.8,
    },
    "qwen3": {("Transformers", "decode"): 2.0, ("Transformers", "prefill"): 1.2},
    "qwen3_moe": {("Transformers", "decode"): 2.0, ("Transformers", "prefill"): 1.5},
    "bamba": {},
    "deepseek_v2": {},
}
BANDWIDTH_AIMS = {"mamba2": 0.9, "bamba": 0.85}
LABELS = {"JaxModels": "jaxmodels", "Transformers": "transformers, PyTorch", "Mamba2Jax": "mamba2-jax"}
CONTESTED = ("mamba2-130m", "qwen3-100m", "qwen3-moe-200m", "bamba-130m", "deepseek-v2-120m")
AGREE = 8  # greedy tokens that all contestants must have in common


def write_checkpoint(values: Mapping[str, Any], directory: Path) -> None:
    """A Hugging Face checkpoint of this shape with random float32 weights."""
    torch.manual_seed(0)
    rest = {key: value for key, value in values.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(values["model_type"], **rest)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory)


def agree(contestants: Mapping[str, Contestant]) -> tuple[list[int], dict[str, float]]:
    """The first greedy tokens of all, and each one's largest difference from our logits, over their range.

    Raises SystemExit where the tokens differ: the figures would then not be of the same model.
    """
    tokens = {name: contestant.greedy(AGREE) for name, contestant in contestants.items()}
    ours = tokens["JaxModels"]
    for name, theirs in tokens.items():
        if theirs != ours:
            raise SystemExit(f"{name} decodes {theirs} where jaxmodels decodes {ours}: not the same model")
    logits = {name: contestant.logits() for name, contestant in contestants.items()}
    reference = logits["JaxModels"]
    scale = float(np.abs(reference).max())
    return ours, {name: float(np.abs(x - reference).max()) / scale for name, x in logits.items()}


def bytes_per_token(model: jm.Model, length: int) -> tuple[int, int]:
    """Bytes that one decoded token must move: weights alone, and with the caches of a history of `length`.

    An untied embedding gives one row, a stack of experts those that a token is sent to. A recurrent state is
    read and written, a key-value cache read up to the length.
    """
    weights = 0
    for path, leaf in walk(model.params):
        _, _, *where = path.split("/")
        if where[:2] == ["ffn", "experts"]:
            router = model.config.blocks[int(path.split("/")[1])].ffn.router
            weights += leaf.nbytes * router.top_k // router.num_experts
        elif path != "embed/weight":
            weights += leaf.nbytes
    if model.config.tie_embeddings:
        weights += model.params["embed"]["weight"].nbytes
    states = 0
    for layer in model.config.init_cache(1, length).layers:
        num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(layer))
        states += num_bytes if isinstance(layer, KVState | LatentState) else 2 * num_bytes
    return weights, weights + states


def contest(
    values: Mapping[str, Any], prompt: np.ndarray, new: int, directory: Path
) -> tuple[jm.Model, dict[str, Contestant]]:
    """Everyone who can run this shape, with the weights in `directory`."""
    model = jm.load(directory, dtype="float32")
    contestants: dict[str, Contestant] = {
        "JaxModels": JaxModels(model, prompt, new),
        "Transformers": Transformers.load(directory, prompt, new),
    }
    if values["model_type"] == "mamba2":
        weights = load_file(directory / "model.safetensors")
        contestants["Mamba2Jax"] = Mamba2Jax.load(values, weights, prompt, max(new // 8, 2))
    return model, contestants


def speeds(contestants: Mapping[str, Contestant], timings: Mapping[str, Timing]) -> dict[str, Speed]:
    """Everyone's figures."""
    return {
        who: contestant.speed(
            {name.removeprefix(f"{who}: "): t.median for name, t in timings.items() if name.startswith(who)}
        )
        for who, contestant in contestants.items()
    }


def show_speeds(by_name: Mapping[str, Speed], size: int) -> Table:
    """Milliseconds, and multiples of our time."""
    ours = by_name["JaxModels"]
    rows: list[list[str | float | None]] = []
    for name, it in by_name.items():
        milliseconds = [1e3 * it.prefill_last, 1e3 * it.prefill_all, 1e3 * it.decode]
        ratios = [
            it.prefill_last / ours.prefill_last, it.prefill_all / ours.prefill_all, it.decode / ours.decode
        ]  # fmt: skip
        rows.append([LABELS[name], *milliseconds, *ratios])
    columns = [
        "", f"prefill {size}, last logits (ms)", "prefill, all logits (ms)", "decode (ms/token)",
        "prefill, last: × our time", "prefill, all: × our time", "decode: × our time",
    ]  # fmt: skip
    return Table(caption="Medians of the turns, batch 1, greedy", columns=columns, rows=rows)


def against_aims(family: str, by_name: Mapping[str, Speed], share_of_bandwidth: float) -> list[Target]:
    """The figures beside what was aimed at."""
    ours = by_name["JaxModels"]
    targets = []
    if family in BANDWIDTH_AIMS:
        aim = BANDWIDTH_AIMS[family]
        what = "decode: share of the read bandwidth, weights and caches"
        targets.append(Target(what=what, measured=share_of_bandwidth, sense="at least", aim=aim))
    for (who, what), aim in AIMS[family].items():
        them = by_name[who]
        speed = (lambda it: it.decode) if what == "decode" else (lambda it: it.prefill_last)
        ratio = speed(them) / speed(ours)
        targets.append(Target(what=f"{what}: times {LABELS[who]}", measured=ratio, sense="at least", aim=aim))
    return targets


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", choices=CONTESTED, default=CONTESTED[0])
    parser.add_argument("--prompt", type=int, default=512, help="tokens in the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every measurement")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompt, arguments.new, arguments.rounds = 40, 16, 1
    values = shape(arguments.shape, tiny=arguments.quick)
    prompt = random_tokens(values["vocab_size"], arguments.prompt)
    probe = ReadBandwidth(2**22) if arguments.quick else ReadBandwidth(2**30, passes=16)
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(values, Path(directory))
        model, contestants = contest(values, prompt, arguments.new, Path(directory))
    tokens, differences = agree(contestants)
    clocks = {f"{who}: {what}": clock for who, c in contestants.items() for what, clock in c.clocks().items()}
    clocks["matrix products of the prefill alone"] = products_alone(model.params["blocks"], arguments.prompt)
    timings = in_turns(clocks | probe.clocks(), arguments.rounds)

    by_name = speeds(contestants, timings)
    weights, moved = bytes_per_token(model, arguments.prompt + arguments.new // 2)
    limit, decode = probe.gb_s(timings), by_name["JaxModels"].decode
    bandwidth = {
        "memory, the better of two probes": limit,
        "decoding, weights alone": weights / decode / 1e9,
        "decoding, weights and caches": moved / decode / 1e9,
    }
    products = timings["matrix products of the prefill alone"].median
    publish(
        Result(
            name=f"decode_prefill_{arguments.shape.replace('-', '_')}",
            title=f"Prefill and decoding, {arguments.shape}",
            method=f"Random float32 weights, prompt of {arguments.prompt} tokens, {arguments.new} new ones, "
            f"{arguments.rounds} turns. All contestants agree on the first {len(tokens)} greedy tokens. "
            f"The prefill's matrix products alone take {1e3 * products:.3g} ms.",
            values={
                "runs_s": {name: timing.runs for name, timing in timings.items()},
                "median_s": {name: asdict(speed) for name, speed in by_name.items()},
                "bandwidth_gb_s": bandwidth,
                "weights_bytes": weights,
                "moved_bytes": moved,
                "relative_logit_differences": differences,
                "first_tokens": tokens,
            },
            tables=[
                show_speeds(by_name, arguments.prompt),
                Table(
                    caption="Decoding against the memory's sustained read bandwidth, in the same turns",
                    columns=["", "GB/s", "share"],
                    rows=[[name, value, value / limit] for name, value in bandwidth.items()],
                ),
            ],
            targets=against_aims(values["model_type"], by_name, moved / decode / 1e9 / limit),
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
