"""Runs every benchmark, one after another in a process of its own, and writes docs/benchmarks.md
and its figure.

    python benchmarks/run_all.py            # about three quarters of an hour on two cores
    python benchmarks/run_all.py --quick    # tiny shapes, results in a temporary directory, report printed

Do not use the machine for anything else meanwhile. Needs `pip install -e .[bench,aot]`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = (
    ("decode_prefill", "--shape", "mamba2-130m"),
    ("decode_prefill", "--shape", "qwen3-100m"),
    ("decode_prefill", "--shape", "qwen3-moe-200m"),
    ("decode_prefill", "--shape", "bamba-130m"),
    ("decode_prefill", "--shape", "deepseek-v2-120m"),
    ("context_scaling",),
    ("recurrent_mixers",),
    ("grouped_matmul",),
    ("kept_experts",),
    ("rollback",),
    ("replay",),
    ("speculation",),
    ("jacobi",),
    ("masked_generation",),
    ("parallel_decoding",),
    ("parallel_decode",),
    ("depth", "--shape", "own"),
    ("depth", "--shape", "100m"),
    ("thinking",),
    ("sparse",),
    ("batch", "--shape", "mamba2-130m"),
    ("batch", "--shape", "qwen3-100m"),
    ("windows", "--shape", "qwen3-100m"),
    ("windows", "--shape", "mamba2-130m"),
    ("loading",),
    ("start_up",),
    ("compiled_properties",),
    ("tpu_programs",),
    ("tpu_plans",),
    ("tpu_decode_bytes",),
    ("tpu_mamba2_jax",),
    ("tpu_speculation",),
    ("bits_per_byte", "tiny-mamba2", "tiny-qwen3", "tiny-hybrid-moe", "tiny-llada"),
    ("quantized",),
    ("digits",),
    ("digit_judges",),
    ("diffusion_caches",),
    ("diffusion",),
    ("next_scale",),
)


def run(module: str, *arguments: str) -> bool:
    """One benchmark; whether it succeeded."""
    began = time.perf_counter()
    print(f"\n== {module} {' '.join(arguments)}", flush=True)
    environment = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments], cwd=ROOT, env=environment, check=False
    )
    print(f"== {time.perf_counter() - began:.0f} s", flush=True)
    return done.returncode == 0


def run_all(options: list[str], report: list[str]) -> int:
    """Everything, then the report; the exit status."""
    began = time.perf_counter()
    failed = [" ".join(it) for it in BENCHMARKS if not run(*it, *options)]
    run("report", *report)
    print(f"all: {time.perf_counter() - began:.0f} s", *(f"FAILED: {name}" for name in failed), sep="\n")
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes: try the scripts, measure nothing")
    if not parser.parse_args().quick:
        status = run_all([], [])
        run("figure")
        sys.exit(status)
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(run_all(["--quick", "--results", directory], ["--results", directory, "--print"]))


if __name__ == "__main__":
    main()
