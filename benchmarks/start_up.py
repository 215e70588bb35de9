"""How long `jaxmodels generate` takes from a cold start, with a filled compilation cache, and with compiled
programs, each in a fresh process.

    python -m benchmarks.start_up

Two times are given. "process" is the whole command: Python and its imports, weights, compilation, tokens.
"generate" is the call that it makes of the model: compilation, where there is any, and 16 tokens. A start
with compiled programs has no compilation cache to help it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from jaxmodels.artefacts.compilation_cache import BOUND, EVERY_PROGRAM, PLACE, SWITCH

PROMPT, NEW = "def f(x):", 16
BUNDLED = ("tiny-mamba2", "tiny-qwen3", "tiny-hybrid-moe", "tiny-llada")
# Bundled models that are made deeper, with random weights.
DEEP = {"tiny-mamba2, 24 layers": "tiny-mamba2", "tiny-qwen3, 24 layers": "tiny-qwen3"}
LAYERS = 24
AIM = 0.35
# Where they name a place for the cache, or keep Python from compiling modules once, as pip does when it
# installs them.
SET_BY_DEVELOPERS = (PLACE, BOUND, SWITCH, *EVERY_PROGRAM, "PYTHONDONTWRITEBYTECODE")
STARTS = ("cold", "filled cache", "compiled programs")


@dataclass(frozen=True)
class Start:
    """Seconds of one start: of the whole process, and of the call of `generate` in it."""

    process: float
    generate: float


@contextmanager
def deepened(name: str, layers: int) -> Iterator[Path]:
    """A directory with a bundled model's shape and tokenizer at another depth, with random weights."""
    model = jm.load(name)
    values = jm.config_to_hf(model.config) | {"num_hidden_layers": layers}
    values.pop("layer_types", None)
    deep = jm.init(jm.config_from_hf(values))
    with tempfile.TemporaryDirectory() as directory:
        jm.save(replace(deep, tokenizer=model.tokenizer), Path(directory) / "model")
        yield Path(directory) / "model"


def command(*arguments: str | Path, **environment: str) -> tuple[float, str]:
    """Seconds and output of one `jaxmodels` command, in the environment that a user has who sets nothing."""
    inherited = {name: value for name, value in os.environ.items() if name not in SET_BY_DEVELOPERS}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "jaxmodels.cli", *map(str, arguments)],
        env={**inherited, **environment}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return time.perf_counter() - began, done.stdout


def import_of_jax() -> float:
    """Seconds of a process that imports JAX and asks for its devices, and does nothing else; like the command
    line, it looks for no garbage meanwhile."""
    began = time.perf_counter()
    code = "import gc; gc.disable(); import jax; jax.devices(); gc.freeze()"
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def start(model: str | Path, *options: str | Path, **environment: str) -> Start:
    """One start of `jaxmodels generate`."""
    seconds, printed = command(
        "generate", PROMPT, "--model", model, "-n", str(NEW), "--json", "-q", *options, **environment
    )
    return Start(process=seconds, generate=json.loads(printed)["stats"]["seconds"])


def starts_of(model: str | Path, rounds: int) -> dict[str, Start]:
    """The median start of each kind."""
    with tempfile.TemporaryDirectory() as scratch:
        runs: dict[str, list[Start]] = {kind: [] for kind in STARTS}
        programs = Path(scratch) / "programs"
        bytecode = {"PYTHONPYCACHEPREFIX": str(Path(scratch) / "bytecode")}
        none = bytecode | {SWITCH: "false"}
        command(
            "tpu", "compile", model, programs, "--prompt", "32", "-n", str(NEW), "--program", "generate",
            **none,
        )  # fmt: skip
        start(model, **none)
        for number in range(rounds):
            cache = bytecode | {"XDG_CACHE_HOME": str(Path(scratch) / f"cache{number}")}
            runs["cold"].append(start(model, **cache))
            runs["filled cache"].append(start(model, **cache))
            runs["compiled programs"].append(start(model, "--compiled", programs, **none))
        return {kind: _median(them) for kind, them in runs.items()}


def _median(runs: Iterable[Start]) -> Start:
    runs = list(runs)
    return Start(
        process=statistics.median(run.process for run in runs),
        generate=statistics.median(run.generate for run in runs),
    )


def measured(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Start]]]:
    """Every model's starts by its name."""
    for name in BUNDLED[:1] if arguments.quick else BUNDLED:
        yield name, starts_of(name, arguments.rounds)
    for title, name in () if arguments.quick else DEEP.items():
        with deepened(name, LAYERS) as directory:
            yield title, starts_of(directory, arguments.rounds)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    rows: list[list[Any]] = []
    targets, values = [], {}
    for name, them in measured(arguments):
        cold = them["cold"]
        for kind, it in them.items():
            ratios = [it.process / cold.process, it.generate / cold.generate]
            rows.append([name, kind, it.process, it.generate, *ratios])
            values[f"{name}, {kind}"] = {"process_s": it.process, "generate_s": it.generate}
            if kind != "cold":
                for what, ratio in zip(("process", "generate"), ratios, strict=True):
                    targets.append(
                        Target(
                            what=f"{name}, {kind}, {what}, of cold", measured=ratio, sense="at most", aim=AIM
                        )
                    )
    floor = statistics.median(import_of_jax() for _ in range(max(arguments.rounds, 1)))
    publish(
        Result(
            name="start_up",
            title="Starting",
            method=f"`jaxmodels generate` of {NEW} tokens in fresh processes, medians of {arguments.rounds}. "
            f"Process: the whole command, of which `import jax` alone takes {floor:.2f} s on this machine. "
            "Generate: the call of the model, with compilation where there is any. Starts with compiled "
            "programs have no compilation cache.",
            values=values | {"import of jax": {"process_s": floor}},
            tables=[
                Table(
                    caption="Seconds, and fractions of a cold start",
                    columns=["model", "start", "process s", "generate s", "process", "generate"],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
