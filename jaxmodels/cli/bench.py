"""`jaxmodels bench`: how fast a model runs here, beside how fast this machine reads its memory."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxmodels.cli.common import DEFAULT_MODEL, AsJson, ConfigName, DType, Revision, TextOnly, print_json

if TYPE_CHECKING:
    from jaxmodels.models.decoder import Decoder

PROBE_ROWS = 16_384  # times 4096 columns of float32: 256 MiB, beyond the caches of CPUs
ACCELERATOR_ROWS = 8 * PROBE_ROWS
PROBE_COLUMNS = 4096
LARGEST_SIZE = 2**30


@dataclass(frozen=True, kw_only=True)
class Workload:
    """prompt, new: tokens per row. batch: rows. repeats: timed runs, after one that compiles."""

    prompt: int
    new: int
    batch: int
    repeats: int

    def __post_init__(self) -> None:
        for name, low in (("prompt", 1), ("new", 2), ("batch", 1), ("repeats", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name} must be at least {low}, got {getattr(self, name)}")
            if getattr(self, name) > LARGEST_SIZE:
                raise ValueError(f"--{name} must be at most {LARGEST_SIZE}, got {getattr(self, name)}")


def bench(
    model: ConfigName = DEFAULT_MODEL,
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 512,
    new: Annotated[int, typer.Option(help="Tokens generated per row.")] = 64,
    batch: Annotated[int, typer.Option(help="Rows.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed runs; the median is shown.")] = 5,
    dtype: Annotated[
        DType | None, typer.Option(help="Of the parameters; by default float32 on CPU, else bfloat16.")
    ] = None,
    as_json: AsJson = False,
    text_only: TextOnly = False,
    revision: Revision = None,
) -> None:
    """Time prefill and decoding of a model's shape.

    Weights are random, which is as fast: only the config.json is read. Decoding is also given as a fraction
    of the read bandwidth measured in the same run, counting weights and cache once per step; it exceeds
    100% where they fit into the processor's own cache.
    """
    workload = Workload(prompt=prompt, new=new, batch=batch, repeats=repeats)
    import jax

    from jaxmodels.cli.common import read_config

    config, file = read_config(model, revision, text_only=text_only)
    on_cpu = jax.default_backend() == "cpu"
    chosen = dtype.value if dtype else "float32" if on_cpu else "bfloat16"
    report = {
        "config": str(file),
        "family": config.family,
        "dtype": chosen,
        "machine": machine(),
        "workload": vars(workload),
        **measure(config, chosen, workload, PROBE_ROWS if on_cpu else ACCELERATOR_ROWS),
    }
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def measure(config: "Decoder", dtype: str, workload: Workload, probe_rows: int) -> dict[str, Any]:
    """Times, rates and the read bandwidth of one model on one workload, as JSON values."""
    from jaxmodels.models.costs import cache_bytes, flops_per_token, prefill_flops, weight_bytes_per_step

    before = read_bandwidth(probe_rows)
    first, prefill_runs, decode_runs = _time(config, dtype, workload)
    bandwidth = max(before, read_bandwidth(probe_rows))  # other work on the machine comes and goes
    prefill, decode = statistics.median(prefill_runs), statistics.median(decode_runs)
    tokens, batch = workload.prompt + workload.new // 2, workload.batch  # the history halfway through
    cache = cache_bytes(config, dtype)
    step_bytes = weight_bytes_per_step(config, dtype, batch) + batch * (
        cache.per_row + cache.per_token * tokens
    )
    return {
        "compile_and_first_run_s": first,
        "prefill_ms": 1e3 * prefill,
        "prefill_tokens_per_s": batch * workload.prompt / prefill,
        "prefill_flops_per_s": batch * prefill_flops(config, workload.prompt) / prefill,
        "decode_ms_per_token": 1e3 * decode,
        "decode_tokens_per_s": batch / decode,
        "decode_flops_per_s": batch * flops_per_token(config, tokens).total / decode,
        "decode_bytes_per_step": step_bytes,
        "decode_bytes_per_s": step_bytes / decode,
        "read_bandwidth_bytes_per_s": bandwidth,
        "fraction_of_bandwidth": step_bytes / decode / bandwidth,
    }


def read_bandwidth(rows: int) -> float:
    """Bytes per second at which a matrix of `rows` is read: the best of a sum and a matrix-vector product."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((rows, PROBE_COLUMNS), jnp.float32)
    vector = jnp.ones((rows,), jnp.float32)
    total, product = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    probes: list[Callable[[], Any]] = [lambda: total(matrix), lambda: product(vector, matrix)]
    best = float("inf")
    for probe in probes:
        _seconds(probe)
        best = min(best, *(_seconds(probe) for _ in range(5)))
    return matrix.nbytes / best


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import jax

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": _cpu_name() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "cpu_cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "jax": jax.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _time(config: "Decoder", dtype: str, workload: Workload) -> tuple[float, list[float], list[float]]:
    """Seconds of the first run, of each prefill, and per step of each decoding."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxmodels as jm
    from jaxmodels.decoding import Autoregressive, driver, generation
    from jaxmodels.decoding.prompts import PromptBatch
    from jaxmodels.memory import check_fits
    from jaxmodels.models.costs import cache_bytes

    shape = batch, prompt = workload.batch, workload.prompt
    sizes = cache_bytes(config, dtype)
    check_fits(
        f"a cache and prompts for --batch {batch}, --prompt {prompt} and --new {workload.new}",
        batch * (sizes.per_row + sizes.per_token * (prompt + workload.new) + 16 * prompt),
    )
    params = jax.block_until_ready(jm.init(config, dtype=dtype).params)
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=shape, dtype=np.int32)
    prompts = PromptBatch(tokens, np.full(workload.batch, workload.prompt, np.int32))
    strategy, steps = Autoregressive(), jnp.asarray(workload.new - 1, jnp.int32)

    def once() -> tuple[float, float]:
        ready = generation.plan(
            config, params, prompts, strategy, max_new_tokens=workload.new,
            stop_tokens=(), pad_token=0, seed=0, capacity=None,
        )  # fmt: skip
        jax.block_until_ready(ready.cache)
        began = time.perf_counter()
        carry = driver.start(
            params, ready.request, ready.cache, strategy, config=config, max_new=ready.new_slots
        )
        jax.block_until_ready(carry)
        between = time.perf_counter()
        carry = driver.advance(params, ready.request, carry, strategy, steps, config=config)
        jax.block_until_ready(carry)
        return between - began, (time.perf_counter() - between) / (workload.new - 1)

    first = _seconds(once)
    runs = [once() for _ in range(workload.repeats)]
    return first, [run[0] for run in runs], [run[1] for run in runs]


def _seconds(call: Callable[[], Any]) -> float:
    import jax

    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def _print_report(report: dict[str, Any]) -> None:
    where, work = report["machine"], report["workload"]
    print(
        f"{where['devices']} x {where['device']} ({where['platform']}), {where['cpu_cores']} CPU cores, "
        f"{where['system']}, jax {where['jax']}"
    )
    print(
        f"{report['config']} ({report['family']}), {report['dtype']}, batch {work['batch']}, "
        f"prompt {work['prompt']}, new {work['new']}, median of {work['repeats']}"
    )
    print(
        f"prefill  {report['prefill_ms']:.2f} ms, {report['prefill_tokens_per_s']:,.0f} tokens/s, "
        f"{report['prefill_flops_per_s'] / 1e9:,.1f} GFLOP/s"
    )
    print(
        f"decode   {report['decode_ms_per_token']:.3f} ms/token, "
        f"{report['decode_tokens_per_s']:,.1f} tokens/s, "
        f"{report['decode_flops_per_s'] / 1e9:,.1f} GFLOP/s"
    )
    rate, limit = report["decode_bytes_per_s"] / 1e9, report["read_bandwidth_bytes_per_s"] / 1e9
    print(
        f"         {report['decode_bytes_per_step'] / 1e6:,.1f} MB per step: {rate:,.1f} of {limit:,.1f} "
        f"GB/s, {report['fraction_of_bandwidth']:.0%} of the measured read bandwidth"
    )
