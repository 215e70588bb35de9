"""What the benchmarks share: clocks, the machine's name and read bandwidth, and the form of their results."""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.report import RESULTS, cell
from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import Params, walk

PACKAGES = ("jax", "jaxlib", "numpy", "torch", "transformers", "diffusers", "mamba2-jax")
CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
PAUSE = 0.05  # seconds between measurements
# Names of projections whose last axis is contracted.
PROJECTIONS = (
    "w_b", "w_bc", "w_c", "w_down", "w_dt", "w_gate", "w_k", "w_k_rope", "w_kv_down", "w_out", "w_q", "w_up",
    "w_v", "w_x", "w_y", "w_z",
)  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs of one thing."""

    runs: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.runs)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True, kw_only=True)
class Table:
    """rows hold texts and numbers; None is shown as a dash."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure beside the one that was aimed at. sense: which side of `aim` is good."""

    what: str
    measured: float
    sense: Literal["at least", "at most"]
    aim: float

    @property
    def is_met(self) -> bool:
        return self.measured >= self.aim if self.sense == "at least" else self.measured <= self.aim


@dataclass(frozen=True, kw_only=True)
class Result:
    """One benchmark's outcome: the figures by name, and how the report shows them.

    values: every figure with its unit at the end of its name (`_s`, `_ms`, `_gb_s`, `_bytes`).
    """

    name: str
    title: str
    method: str
    values: Mapping[str, Any]
    tables: Sequence[Table]
    targets: Sequence[Target] = field(default_factory=tuple)


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have: `--quick` and `--results`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes: try the script, measure nothing")
    parser.add_argument(
        "--results", type=Path, help=f"where the JSON goes; by default {RESULTS.name}/, and nowhere if quick"
    )
    return parser


def publish(result: Result, arguments: argparse.Namespace) -> None:
    """Prints a result and writes it as JSON."""
    print(f"{result.title}{' (quick: the figures mean nothing)' if arguments.quick else ''}")
    for table in result.tables:
        print(f"\n  {table.caption}\n  {' | '.join(table.columns)}")
        for row in table.rows:
            print("  " + " | ".join(cell(value) for value in row))
    for target in result.targets:
        verdict = "met" if target.is_met else "MISSED"
        print(f"  {target.what}: {target.measured:.3g} ({target.sense} {target.aim:g}: {verdict})")
    directory = arguments.results or (None if arguments.quick else RESULTS)
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    record = {"quick": arguments.quick, "machine": describe_machine(), **asdict(result)}
    for target, entry in zip(result.targets, record["targets"], strict=True):
        entry["is_met"] = target.is_met
    text = json.dumps(record, indent=1, allow_nan=False)
    (directory / f"{result.name}.json").write_text(text + "\n", "utf-8")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory, versions, date, and the load that the measurement found."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _field(CPU_INFO, "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gib": round(int((_field(MEMORY_INFO, "MemTotal") or "0").split()[0]) / 2**20),
        "device": jax.devices()[0].device_kind,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "date": date.today().isoformat(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call; what it returns is waited for."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def in_turns(clocks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Several measurements `rounds` times over, one after another in each round.

    Turns rather than blocks, so that a slow minute of the machine falls on all of them alike. Each clock
    returns its own seconds and must be warm. Before each there is a pause, in which the idle threads of the
    one before stop spinning: they would take the processors from the next.
    """
    runs: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, clock in clocks.items():
            time.sleep(PAUSE)
            runs[name].append(clock())
    return {name: Timing(tuple(values)) for name, values in runs.items()}


@dataclass(frozen=True)
class ReadBandwidth:
    """How fast memory can be read by all cores, in GB/s: one big sum, and one big matrix-vector product.

    passes: how often a run reads it all, so that a run takes about as long as what it is compared with. On a
    machine whose memory is shared, the best moment of a short run is nothing that a long one could keep up.
    """

    num_bytes: int
    passes: int = 1

    def clocks(self) -> dict[str, Callable[[], float]]:
        """For `in_turns`: the two probes, compiled and warm."""
        rows = max(self.num_bytes // (4 * 4096), 1)
        matrix = jnp.ones((rows, 4096), jnp.float32)
        vector = jnp.ones((rows,), jnp.float32)
        probes: dict[str, Callable[[], Any]] = {
            "bandwidth: sum": lambda: _sum(matrix),
            "bandwidth: matrix-vector product": lambda: _multiply(vector, matrix),
        }
        for probe in probes.values():
            jax.block_until_ready(probe())
        return {name: functools.partial(self._seconds_per_pass, probe) for name, probe in probes.items()}

    def _seconds_per_pass(self, probe: Callable[[], Any]) -> float:
        return seconds(lambda: [probe() for _ in range(self.passes)]) / self.passes

    def gb_s(self, timings: Mapping[str, Timing]) -> float:
        """The better probe's best run: what the machine can give, which others on it only lessen."""
        read = max(self.num_bytes // (4 * 4096), 1) * 4 * 4096
        return max(read / timing.best for name, timing in timings.items() if "bandwidth" in name) / 1e9


@jax.jit
def _sum(matrix: Float[Array, "D F"]) -> Float[Array, ""]:
    return matrix.sum()


@jax.jit
def _multiply(vector: Float[Array, "D"], matrix: Float[Array, "D F"]) -> Float[Array, "F"]:
    return vector @ matrix


def products_alone(params: Params, size: int) -> Callable[[], float]:
    """A clock for the products of the projections in `params` with `size` rows, and nothing else.

    Experts are left out; what latent attention does head by head counts as one product of as many operations.
    """
    weights = []
    for path, leaf in walk(params):
        if "/experts/" in path:
            continue
        if path.rsplit("/", 1)[-1] in PROJECTIONS:
            weights.append(leaf.reshape(-1, leaf.shape[-1]))
        elif path.endswith("w_o"):
            weights.append(leaf.reshape(leaf.shape[0], -1))
        elif path.endswith(("w_uk", "w_uv")):
            weights.append(leaf.reshape(-1, leaf.shape[-1]))
    inputs = {width: jnp.ones((size, width), jnp.float32) for width in {w.shape[1] for w in weights}}

    @jax.jit
    def multiply(weights: list[Array], inputs: dict[int, Array]) -> list[Float[Array, "S F"]]:
        return [linear(inputs[w.shape[1]], w) for w in weights]

    jax.block_until_ready(multiply(weights, inputs))
    return lambda: seconds(lambda: multiply(weights, inputs))


def distinct(rows: Iterable[Sequence[int]], size: int = 4) -> float:
    """The share of distinct sequences of `size` tokens in a row, on average: 1 where nothing is repeated."""
    shares = []
    for row in rows:
        grams = [tuple(row[i : i + size]) for i in range(len(row) - size + 1)]
        shares.append(len(set(grams)) / len(grams))
    return float(np.mean(shares))


def random_tokens(vocab_size: int, *shape: int, seed: int = 0) -> np.ndarray:
    """i32 token ids, the same for the same arguments."""
    return np.random.default_rng(seed).integers(vocab_size, size=shape).astype(np.int32)


def _field(file: Path, name: str) -> str | None:
    """The value of one ``name: value`` line of a file of the proc file system."""
    if not file.is_file():
        return None
    for line in file.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
