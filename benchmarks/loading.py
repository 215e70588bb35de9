"""Time and peak memory of loading a 2 GB checkpoint, beside `transformers`, each in a fresh process.

    python -m benchmarks.loading

GB/s are bytes of the files over seconds. Peak memory is the high-water mark of the resident set (VmHWM)
less what was resident after the imports and a first operation; pages of a mapped file count. Every
parameter is touched within the measured time, so that lazily mapped files count there too. The files were
just written, so they come from the page cache: this is about the loader, not about the disk. Loaders run in
turns, in alternating order, and each finds as much memory as it may need just freed: a virtual machine has
its host provide what has not been used for a while, which takes longer than loading. Linux only.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from benchmarks.shapes import shape
from jaxmodels.checkpoints.huggingface import write_config
from jaxmodels.checkpoints.manifest import MANIFEST_FILE, write_manifest
from jaxmodels.checkpoints.safetensors_io import SINGLE_FILE, TensorToWrite, write_tensors
from jaxmodels.models.families import FAMILIES

STATUS = Path("/proc/self/status")
# What a process takes beside the model.
SPARE_BYTES = 2**29


def write_checkpoint(values: dict[str, Any], dtype: str, directory: Path) -> None:
    """A checkpoint of random weights, written tensor by tensor."""
    directory.mkdir()
    config = jm.config_from_hf(values)
    write_config(jm.config_to_hf(config) | {"dtype": dtype}, directory)
    rng = np.random.default_rng(0)

    def tensors() -> Iterator[TensorToWrite]:
        for tensor in FAMILIES[values["model_type"]].tensors(config).values():

            def draw(shape: tuple[int, ...] = tensor.shape) -> np.ndarray:
                return (rng.random(shape, np.float32) * 0.04 - 0.02).astype(jnp.dtype(dtype))

            yield TensorToWrite(name=tensor.name, shape=tensor.shape, dtype=jnp.dtype(dtype), read=draw)

    write_tensors(directory, tensors(), max_shard_bytes=2**40)


def memory(field: str) -> int:
    """A field of this process' status in bytes: VmRSS, resident now; VmHWM, its peak."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"{STATUS} has no {field}: this benchmark needs Linux")


def measure(load: Callable[[], int]) -> dict[str, float]:
    """Seconds, peak bytes and model bytes of `load`, which gives the bytes of what it loaded."""
    baseline = memory("VmRSS")
    began = time.perf_counter()
    model_bytes = load()
    elapsed = time.perf_counter() - began
    return {"seconds": elapsed, "peak_bytes": memory("VmHWM") - baseline, "model_bytes": model_bytes}


def load_with_jaxmodels(directory: Path, dtype: str) -> dict[str, float]:
    """The child process for this package."""
    jax.block_until_ready(jnp.ones((256, 256)) @ jnp.ones((256, 256)))
    jm.load  # noqa: B018 (its module is imported on first use)
    held = []

    def load() -> int:
        model = jm.load(directory, dtype=dtype)
        held.append(model)
        leaves = jax.block_until_ready(jax.tree.leaves(model.params))
        for leaf in leaves:
            np.asarray(leaf).reshape(-1)[:: 4096 // leaf.dtype.itemsize].max()  # one number of every page
        return sum(leaf.nbytes for leaf in leaves)

    return measure(load)


def load_with_transformers(directory: Path, dtype: str) -> dict[str, float]:
    """The child process for the peer."""
    import torch
    import transformers

    torch.ones(256, 256) @ torch.ones(256, 256)
    transformers.LlamaForCausalLM  # noqa: B018 (its module is imported on first use)
    held = []

    def load() -> int:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), low_cpu_mem_usage=True, use_safetensors=True
        )
        held.append(model)
        parameters = list(model.parameters())
        for parameter in parameters:
            parameter.detach().reshape(-1)[:: 4096 // parameter.element_size()].max()
        return sum(parameter.nbytes for parameter in parameters)

    return measure(load)


LOADERS = {"jaxmodels": load_with_jaxmodels, "transformers": load_with_transformers}


def shift(directory: Path) -> None:
    """Moves the tensors of a checkpoint by eight bytes, to where other writers may have put them."""
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    source = directory / SINGLE_FILE
    target = directory / "shifted"
    with open(source, "rb") as read, open(target, "wb") as write:
        length = int.from_bytes(read.read(8), "little")
        write.write((length + 8).to_bytes(8, "little") + read.read(length) + 8 * b" ")
        shutil.copyfileobj(read, write, 2**24)
    target.replace(source)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint, how it is read, and by whom.

    Attributes:
        label: what the table calls it.
        stored, wanted: dtypes of the file and of the model.
        prepare: what is done to the checkpoint after writing.
        loaders: names of those that read it.
    """

    label: str
    stored: str
    wanted: str
    prepare: Callable[[Path], None] = lambda directory: None
    loaders: tuple[str, ...] = tuple(LOADERS)


# Those of one stored dtype share a checkpoint, which each prepares further.
CASES = (
    Case(label="float32", stored="float32", wanted="float32"),
    Case(
        label="float32, compared with its checksums",
        stored="float32",
        wanted="float32",
        prepare=write_manifest,
        loaders=("jaxmodels",),
    ),
    Case(label="float32, tensors not aligned", stored="float32", wanted="float32", prepare=shift),
    Case(label="bfloat16 to float32", stored="bfloat16", wanted="float32"),
    Case(label="bfloat16", stored="bfloat16", wanted="bfloat16"),
)


def in_fresh_processes(case: Case, directory: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The median time of each loader's processes, with the highest peak of them."""
    runs: dict[str, list[dict[str, float]]] = {loader: [] for loader in case.loaders}
    parameters = (directory / SINGLE_FILE).stat().st_size // np.dtype(jnp.dtype(case.stored)).itemsize
    spare = parameters * np.dtype(jnp.dtype(case.wanted)).itemsize + SPARE_BYTES
    for number in range(rounds):
        for loader in case.loaders[:: 1 if number % 2 else -1]:
            np.ones(spare, np.uint8)
            command = [
                sys.executable,
                "-m",
                "benchmarks.loading",
                "--child",
                loader,
                str(directory),
                case.wanted,
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[loader].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        loader: {
            "seconds": statistics.median(run["seconds"] for run in all_runs),
            "peak_bytes": max(run["peak_bytes"] for run in all_runs),
            "model_bytes": all_runs[0]["model_bytes"],
        }
        for loader, all_runs in runs.items()
    }


def run(arguments: argparse.Namespace, directory: Path) -> tuple[list, list[Target], dict[str, Any]]:
    """All cases: table rows, targets and figures."""
    values = shape("llama-500m", tiny=arguments.quick)
    rows, targets, figures = [], [], {}
    for case in CASES:
        path = directory / case.stored
        if not path.exists():
            write_checkpoint(values, case.stored, path)
        case.prepare(path)
        file_bytes = (path / SINGLE_FILE).stat().st_size
        for loader, it in in_fresh_processes(case, path, arguments.rounds).items():
            ratio, speed = it["peak_bytes"] / it["model_bytes"], file_bytes / it["seconds"] / 1e9
            figures[f"{loader}, {case.label}"] = it | {"file_bytes": file_bytes}
            rows.append([case.label, loader, file_bytes / 1e9, it["seconds"], speed, ratio])
            if loader == "jaxmodels":
                what = f"peak memory over the model, {case.label}"
                targets.append(Target(what=what, measured=ratio, sense="at most", aim=1.15))
                targets.append(Target(what=f"GB/s, {case.label}", measured=speed, sense="at least", aim=2.0))
    return rows, targets, figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes per case")
    parser.add_argument("--child", nargs=3, metavar=("LOADER", "DIRECTORY", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        loader, directory, dtype = arguments.child
        print(json.dumps(LOADERS[loader](Path(directory), dtype)))
        return
    if arguments.quick:
        arguments.rounds = 1
    with tempfile.TemporaryDirectory() as directory:
        rows, targets, figures = run(arguments, Path(directory))
    publish(
        Result(
            name="loading",
            title="Loading a checkpoint",
            method="A Llama of half a billion random parameters as safetensors, read from the page cache, "
            f"each load in a process of its own, the loaders in turns; medians of {arguments.rounds}. Peak "
            "memory is what loading added to the process at most. Other writers begin tensors at any "
            "multiple of 8 bytes, ours at multiples of 64, from where XLA uses the file's pages themselves.",
            values=figures,
            tables=[
                Table(
                    caption="From the stored to the wanted type",
                    columns=["", "loader", "files (GB)", "seconds", "GB/s", "peak memory / model"],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
