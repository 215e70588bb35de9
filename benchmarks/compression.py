"""Bits per byte of held-out Python source: general-purpose compressors beside language models.

    python benchmarks/compression.py                          # gzip and xz alone
    python benchmarks/compression.py NAME_OR_PATH ...         # and models, as `jaxmodels.load` takes them
    python benchmarks/compression.py --files 'src/**/*.py' -- NAME_OR_PATH

The files are the held-out half of the standard library (`jaxmodels.training.stdlib_corpus`) unless
`--files` names others. A model is charged for each file from its start to its end-of-text token, seeing no
other file. Compressors are shown both so and, as they would like it, on all files joined. The size of the
compressor or model is not counted.
"""

import argparse
import gzip
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxmodels
from jaxmodels.training.data import STDLIB_HELD_OUT, resolve_files
from jaxmodels.training.evaluate import score_files
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


def model_bits_per_byte(name: str, files: Sequence[Path], window: int) -> float:
    """Bits per byte under a checkpoint, or under a training run of this package by its directory."""
    if (Path(name) / "recipe.json").is_file():
        run = load_run(name)
        config, params, tokenizer = run.model, run.params, run.tokenizer
    else:
        model = jaxmodels.load(name)
        if model.tokenizer is None:
            raise SystemExit(f"{name!r} has no tokenizer, so its bits per byte of text are undefined")
        config, params, tokenizer = model.config, model.params, model.tokenizer.backend
    score = score_files(config, params, tokenizer, files, window=window, overlap=window // 2)
    return score.bits_per_byte


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="what jaxmodels.load takes")
    parser.add_argument("--files", nargs="+", default=[STDLIB_HELD_OUT], help="glob patterns or directories")
    parser.add_argument("--window", type=int, default=512, help="tokens a model reads at once")
    arguments = parser.parse_args()
    files = resolve_files(arguments.files)
    contents = [path.read_bytes() for path in files]
    table = Table(title=f"{len(files)} files, {sum(map(len, contents)):,} bytes: bits per byte")
    for column in ("", "each file", "joined"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("order-0 entropy", "", f"{byte_entropy(contents):.3f}")
    for name, compress in COMPRESSORS.items():
        apart, joined = compressed_bits_per_byte(compress, contents)
        table.add_row(name, f"{apart:.3f}", f"{joined:.3f}")
    for name in arguments.models:
        table.add_row(name, f"{model_bits_per_byte(name, files, arguments.window):.3f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
