"""What bundled models lose, and how small they get, with weights in few bits.

    python -m benchmarks.quantized
    python -m benchmarks.quantized NAME_OR_PATH ...     # other models, as `jaxmodels.load` takes them

Bits per byte are those of `benchmarks.bits_per_byte`, on a few of its files.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jaxmodels
from benchmarks.common import Result, Table, argument_parser, publish
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS
from jaxmodels.layers.spec import walk
from jaxmodels.training.data import STDLIB_HELD_OUT, resolve_files
from jaxmodels.training.evaluate import score_files

MODELS = ("tiny-mamba2", "tiny-qwen3", "tiny-hybrid-moe")
FORMATS = ("bfloat16", *(name for name in QUANTIZATIONS if name != "mxfp4-experts"))
# The smallest of the held-out files, and the tokens that a model reads of one at once.
FILES, WINDOW = 6, 512


def measured(name: str, files: Sequence[Path]) -> Iterator[tuple[str, str, float, float, float]]:
    """(model, format, megabytes of parameters, bits per byte, what that is above the stored weights')."""
    base = None
    for form in FORMATS:
        model = jaxmodels.load(name, "float32", quantize=None if form == "bfloat16" else form)
        assert model.tokenizer is not None
        size = sum(leaf.nbytes for _, leaf in walk(model.params)) / 1e6
        # Computed in float32, as on CPU; a model in bfloat16 has half the bytes of its float32 arrays.
        size = size / 2 if form == "bfloat16" else size
        score = score_files(
            model.config,
            model.params,
            model.tokenizer.backend,
            files,
            window=WINDOW,
            overlap=WINDOW // 2,
        ).bits_per_byte
        base = score if base is None else base
        yield name, form, size, score, score - base


def measure(files: Sequence[Path], models: Sequence[str]) -> Result:
    """All formats of all models on the same files."""
    rows = [row for name in models for row in measured(name, files)]
    return Result(
        name="quantized",
        title="Weights in few bits",
        method=(
            f"{len(files)} held-out files of the standard library, {sum(f.stat().st_size for f in files):,} "
            f"bytes, each by itself with {WINDOW} tokens at once. Weights are rounded to nearest numbers, "
            "without calibration. bfloat16 is what the models are stored in. Matrices and tables are "
            "quantised: per output in int8, int4-channel and fp8, in groups of up to 128 inputs in int4, of "
            "32 in mxfp4; tables in four-bit formats in int8. Layers compute in float32."
        ),
        values={f"{name} {form} (bits per byte)": score for name, form, _, score, _ in rows}
        | {f"{name} {form} (MB)": size for name, form, size, *_ in rows},
        tables=[
            Table(
                caption="Size and bits per byte",
                columns=("model", "weights", "MB", "bits per byte", "above bfloat16"),
                rows=rows,
            )
        ],
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help="what jaxmodels.load takes")
    arguments = parser.parse_args()
    files = sorted(resolve_files([STDLIB_HELD_OUT]), key=lambda path: path.stat().st_size)
    files = files[: 1 if arguments.quick else FILES]
    publish(measure(files, arguments.models), arguments)


if __name__ == "__main__":
    main()
