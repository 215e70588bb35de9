"""This working tree against an earlier revision of it, in one process, on the same weights.

    python -m benchmarks.against HEAD~20 --shape qwen3-100m
    python -m benchmarks.against HEAD~20 --shape qwen3-100m --compile

Both are driven through what users call, so that a revision needs nothing but the public names. Prints ratios
and keeps no record.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from benchmarks.common import in_turns, random_tokens, seconds
from benchmarks.shapes import MAMBA2_130M, QWEN3_100M, shape

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "jaxmodels"
PROMPT, NEW = 256, 32
# Deep and thin: what compiling takes goes by the number of layers.
DEEP = {
    "mamba2-130m": {**MAMBA2_130M, "hidden_size": 128, "num_heads": 4, "state_size": 32, "vocab_size": 512},
    "qwen3-100m": {**QWEN3_100M, "hidden_size": 128, "num_hidden_layers": 28, "vocab_size": 512},
}


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One version of the package, with a model of its own.

    Attributes:
        package: the imported module.
        model: its `Model`.
    """

    package: ModuleType
    model: Any

    def generate(self, rows: int, prompt: int, new: int, strategy: Any) -> Callable[[], Any]:
        """A call that continues random prompts."""
        tokens = random_tokens(self.model.config.vocab_size, rows, prompt)
        return lambda: (
            self.model.generate(tokens, new, strategy, stop_tokens=(), capacity=PROMPT + 2 * NEW).tokens
        )


def import_from(root: Path) -> ModuleType:
    """The package as it lies below `root`, beside versions that were imported before.

    Modules that an earlier version imports only when it is used must be imported by then.
    """
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(PACKAGE + ".")]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        package = importlib.import_module(PACKAGE)
    finally:
        sys.path.remove(str(root))
    if not Path(str(package.__file__)).is_relative_to(root):
        raise SystemExit(f"{PACKAGE} came from {package.__file__} instead of {root}")
    return package


def compare(old: Revision, new: Revision, rounds: int) -> None:
    """Prints, for each kind of step, the medians and their ratio."""
    calls: dict[str, Callable[[], Any]] = {}
    for name, revision in (("old", old), ("new", new)):
        decoding = revision.package.decoding
        kinds = {
            "decode, 1 row": revision.generate(1, 16, NEW, decoding.Autoregressive()),
            "decode, 8 rows": revision.generate(8, 16, NEW, decoding.Autoregressive()),
            "windows of 8": revision.generate(1, 16, NEW, decoding.Jacobi(window=8)),
            "prefill": revision.generate(1, PROMPT, 1, decoding.Autoregressive()),
        }
        calls |= {f"{kind}: {name}": call for kind, call in kinds.items()}
    results = {name: call() for name, call in calls.items()}
    timings = in_turns(
        {name: lambda call=call: seconds(call) for name, call in calls.items()},  # type: ignore[misc]
        rounds,
    )
    for kind in [name.removesuffix(": old") for name in calls if name.endswith(": old")]:
        before, after = (timings[f"{kind}: {name}"].median for name in ("old", "new"))
        same = np.array_equal(results[f"{kind}: old"], results[f"{kind}: new"])
        print(
            f"{kind}: {before * 1e3:.1f} -> {after * 1e3:.1f} ms, {after / before:.3f}x; "
            f"tokens {'equal' if same else 'DIFFER'}"
        )


def compare_compiling(old: Revision, new: Revision, rounds: int) -> None:
    """Prints the time of tracing, lowering and compiling a whole generation, and its ratio."""

    def compile_again(revision: Revision) -> float:
        jax.clear_caches()
        strategy = revision.package.decoding.Autoregressive()
        return seconds(revision.generate(1, 16, NEW, strategy))

    jax.config.update("jax_enable_compilation_cache", False)
    clocks = {
        name: lambda revision=revision: compile_again(revision)
        for name, revision in (("old", old), ("new", new))
    }
    timings = in_turns(clocks, rounds)  # type: ignore[arg-type]
    before, after = timings["old"].median, timings["new"].median
    print(f"trace, compile and run: {before:.2f} -> {after:.2f} s, {after / before:.3f}x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="what git calls it")
    parser.add_argument("--shape", choices=sorted(DEEP), default="qwen3-100m")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every measurement")
    parser.add_argument("--compile", action="store_true", help="compare the time of compiling instead")
    arguments = parser.parse_args()
    values = dict(DEEP[arguments.shape] if arguments.compile else shape(arguments.shape, tiny=False))
    with tempfile.TemporaryDirectory() as directory:
        archive = subprocess.run(
            ["git", "archive", arguments.revision, PACKAGE], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
        package = import_from(Path(directory))
        old = Revision(package=package, model=package.init(package.config_from_hf(values), seed=0))
        package.save(old.model, Path(directory) / "weights")
        package = import_from(ROOT)
        new = Revision(package=package, model=package.load(Path(directory) / "weights"))
        (compare_compiling if arguments.compile else compare)(old, new, arguments.rounds)


if __name__ == "__main__":
    main()
