"""Bits per byte of held-out Python source: general-purpose compressors beside language models.

    python -m benchmarks.bits_per_byte                          # gzip and xz alone
    python -m benchmarks.bits_per_byte NAME_OR_PATH ...         # and models, as `jaxmodels.load` takes them
    python -m benchmarks.bits_per_byte --files 'src/**/*.py' -- NAME_OR_PATH

The files are the held-out half of the standard library (`jaxmodels.training.stdlib_corpus`) unless
`--files` names others. A model is charged for each file from its start to its end-of-text token, seeing no
other file. A model that fills in masks is charged a bound, averaged over draws. Compressors are shown both
so and, as they would like it, on all files joined. The size of the compressor or model is not counted.
"""

import gzip
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import jaxmodels
from benchmarks.common import Result, Table, argument_parser, publish
from jaxmodels.training.data import STDLIB_HELD_OUT, resolve_files
from jaxmodels.training.evaluate import Score, score_files
from jaxmodels.training.loop import load_run

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda content: gzip.compress(content, 9, mtime=0),
    "xz -9e": lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME),
}


def compressed_bits_per_byte(
    compress: Callable[[bytes], bytes], contents: Sequence[bytes]
) -> tuple[float, float]:
    """Bits per byte with each content compressed on its own, and with all of them joined."""
    size = sum(map(len, contents))
    apart = sum(len(compress(content)) for content in contents)
    return 8 * apart / size, 8 * len(compress(b"".join(contents))) / size


def byte_entropy(contents: Sequence[bytes]) -> float:
    """Bits per byte of the best code that treats bytes as independent draws."""
    counts = np.bincount(np.frombuffer(b"".join(contents), np.uint8))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def score_of(name: str, files: Sequence[Path], window: int) -> Score:
    """The cost under a checkpoint, or under a training run of this package by its directory."""
    if (Path(name) / "recipe.json").is_file():
        run = load_run(name)
        config, params, tokenizer = run.model, run.params, run.tokenizer
    else:
        model = jaxmodels.load(name)
        if model.tokenizer is None:
            raise SystemExit(f"{name!r} has no tokenizer, so its bits per byte of text are undefined")
        config, params, tokenizer = model.config, model.params, model.tokenizer.backend
    return score_files(config, params, tokenizer, files, window=window, overlap=window // 2)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", help="what jaxmodels.load takes")
    parser.add_argument("--files", nargs="+", default=[STDLIB_HELD_OUT], help="glob patterns or directories")
    parser.add_argument("--window", type=int, default=512, help="tokens a model reads at once")
    arguments = parser.parse_args()
    files = resolve_files(arguments.files)
    if arguments.quick:
        files = tuple(sorted(files, key=lambda path: path.stat().st_size))[:3]
    publish(measure(files, arguments.models, arguments.window), arguments)


def measure(files: Sequence[Path], models: Sequence[str], window: int) -> Result:
    """Compressors and models on the same files."""
    contents = [path.read_bytes() for path in files]
    scores = {name: score_of(name, files, window) for name in models}
    rows: list[tuple[str, float | None, float | None]] = [
        ("order-0 entropy", None, byte_entropy(contents)),
        *((name, *compressed_bits_per_byte(compress, contents)) for name, compress in COMPRESSORS.items()),
        *((name, score.bits_per_byte, None) for name, score in scores.items()),
    ]
    errors = {name: score.bits_per_byte_error for name, score in scores.items() if score.standard_error}
    return Result(
        name="bits_per_byte",
        title="Bits per byte of held-out Python source",
        method=(
            f"{len(files)} held-out files of the standard library, {sum(map(len, contents)):,} bytes. A "
            f"model reads each file from its start, {window} tokens at once with half of them as context, "
            "and sees no other file; the compressors are also given all files joined, which lets them learn "
            "from one file for the next. Sizes of models and compressors are not counted."
            + "".join(
                f" {name} fills in masks: its figure is a bound on the cost of what is behind the context, "
                f"with a standard error of {error:.4f}."
                for name, error in errors.items()
            )
        ),
        values={"files": len(files), "bytes": sum(map(len, contents))}
        | {f"{name} (each file)": apart for name, apart, _ in rows if apart is not None}
        | {f"{name} (standard error)": error for name, error in errors.items()},
        tables=[
            Table(caption="Bits per byte", columns=("coder", "each file by itself", "joined"), rows=rows)
        ],
    )


if __name__ == "__main__":
    main()
