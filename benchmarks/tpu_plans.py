"""What `jaxmodels tpu plan --compile` says of models that are rented slices for, beside the plan without it.

    python -m benchmarks.tpu_plans [--models "Qwen3-8B"]

For each model the plan and what the compiler says of decode and prefill, in processes of their own, one after
another. Models that are not named keep what was recorded of them. No TPU is involved (needs the extra
``jaxmodels[aot]``).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jaxmodels as jm
from benchmarks.common import Result, Table, argument_parser, publish
from benchmarks.report import RESULTS
from benchmarks.shapes import MAMBA2_130M
from jaxmodels.decoding import Autoregressive
from jaxmodels.tpu_configs.compiler import ENVIRONMENT
from jaxmodels.tpu_configs.plan import Plan, plan
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.slices import find_slice

NAME = "tpu_plans"
PUBLISHED = Path(__file__).parents[1] / "tests" / "published"
MEBIBYTE = 2**20
# What `jaxmodels tpu plan` plans for by default.
WORKLOAD = Workload(batch=1, prompt=2048, new_tokens=128)
# Width and layers of the other published Mamba-2 models: all else is as in the smallest.
MAMBA2 = {"130M": (768, 24), "370M": (1024, 48), "780M": (1536, 48), "1.3B": (2048, 48), "2.7B": (2560, 64)}
# Model, and the slice that it is planned for.
SLICES = {
    **{f"Mamba-2 {size}": "v6e-1" for size in MAMBA2},
    "Qwen3-8B": "v5e-8",
    "Mixtral-8x7B-v0.1": "v5e-16",
    "Qwen3-30B-A3B": "v5e-16",
    "gpt-oss-120b": "v6e-16",
    "Nemotron-H-56B-Base-8K": "v6e-16",
}


def values_of(name: str) -> dict[str, Any]:
    """The configuration of a model."""
    family, _, size = name.partition(" ")
    if family == "Mamba-2":
        width, layers = MAMBA2[size]
        return {
            **MAMBA2_130M, "hidden_size": width, "num_hidden_layers": layers, "num_heads": 2 * width // 64,
        }  # fmt: skip
    (file,) = PUBLISHED.glob(f"*--{name}.json")
    values: dict[str, Any] = json.loads(file.read_text("utf-8"))
    values.pop("quantization_config", None)
    return values


def planned(name: str) -> Plan:
    """The plan of a model on its slice."""
    return plan(jm.config_from_hf(values_of(name)), find_slice(SLICES[name]), WORKLOAD, Autoregressive())


def compiled(name: str) -> dict[str, Any]:
    """What the command says of a model's programs, its seconds, and the load that it left the machine under.

    Raises:
        RuntimeError: the command fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.json"
        file.write_text(json.dumps(values_of(name)), "utf-8")
        command = [sys.executable, "-m", "jaxmodels.cli", "tpu", "plan", str(file), "--slice", SLICES[name]]
        environment = {**os.environ, **ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--compile", "--json"], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-1000:]}")
    parts = ("argument_bytes", "output_bytes", "alias_bytes", "temp_bytes", "generated_code_bytes", "seconds")
    return {
        "slice": SLICES[name],
        "all_s": time.perf_counter() - began,
        "load": round(os.getloadavg()[0], 1),
        "programs": {
            it["program"]: {part: it[part] for part in parts} for it in json.loads(done.stdout)["compiled"]
        },
    }


def device_bytes(program: Mapping[str, float]) -> float:
    """Memory of one device that a program needs."""
    own = program["output_bytes"] - program["alias_bytes"]
    return program["argument_bytes"] + own + program["temp_bytes"] + program["generated_code_bytes"]


def rows(recorded: Mapping[str, Any]) -> Iterator[list[str | float | None]]:
    """A row for each program that is recorded, with what is planned for it now."""
    for name, entry in recorded.items():
        memory = planned(name).memory
        for program, said in entry["programs"].items():
            told = memory.while_running({"prefill": memory.prefill, "decode": memory.decode}[program])
            found = device_bytes(said)
            yield [
                name, entry["slice"], program, told / MEBIBYTE, found / MEBIBYTE, told / found,
                said["seconds"], entry["load"],
            ]  # fmt: skip


def recorded() -> dict[str, Any]:
    """What was recorded before, by model."""
    file = RESULTS / f"{NAME}.json"
    values: dict[str, Any] = json.loads(file.read_text("utf-8"))["values"] if file.is_file() else {}
    return values


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--models", nargs="*", choices=SLICES, default=list(SLICES))
    arguments = parser.parse_args()
    found = recorded() | {name: compiled(name) for name in arguments.models[: 1 if arguments.quick else None]}
    publish(
        Result(
            name=NAME,
            title="Plans beside the compiler",
            method="A row of 2,048 tokens and 128 new ones in bfloat16, on the mesh that is planned. Memory "
            "is that of one device. Models are compiled with one layer of each kind, and with two of the "
            "commonest, on a machine without a TPU and with other work on it: the load is the mean number of "
            "processes that wanted one of its cores. To the memory of either is added what a deep model's "
            "caches take a second time where they are brought onto the chip and written back, the cache's "
            "size up to 128 MiB: the plan counts it by the same rule.",
            values={name: found[name] for name in SLICES if name in found},
            tables=[
                Table(
                    caption="Memory of each program, and what it takes to compile",
                    columns=[
                        "model", "slice", "program", "planned MiB", "compiled MiB", "ratio",
                        "compiled in (s)", "load",
                    ],
                    rows=list(rows(found)),
                )
            ],
        ),
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
