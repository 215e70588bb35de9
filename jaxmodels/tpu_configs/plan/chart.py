"""Plans of several slices as bars side by side."""

from collections.abc import Sequence
from pathlib import Path

from jaxmodels.tpu_configs.plan.planning import Plan

GIB = 2**30
# The parts of a device's memory, and their colours.
PARTS = {"parameters": "#4c72b0", "cache": "#dd8452", "working": "#55a868", "code": "#8172b3"}


def draw(plans: Sequence[Plan], file: Path) -> None:
    """Draws memory of a device beside what it has, and the times to the first and to each further token.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the file's name has no ending that matplotlib can draw to, or its directory is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'jaxmodels[plot]'") from error
    names = [it.slice.name for it in plans]
    figure = Figure(figsize=(10, 1.5 + 0.3 * len(plans)), layout="constrained")
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if file.suffix[1:].lower() not in kinds:
        raise ValueError(f"--plot {str(file)!r} must end in .png or another of: {', '.join(kinds)}")
    if not file.parent.is_dir():
        raise ValueError(f"--plot {str(file)!r}: its directory does not exist")
    memory, first, further = figure.subplots(1, 3, sharey=True)
    left = [0.0] * len(plans)
    for part, colour in PARTS.items():
        sizes = [getattr(it.memory, part) / GIB for it in plans]
        memory.barh(names, sizes, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    limits = [it.memory.usable / GIB for it in plans]
    memory.plot(limits, names, "|", color="black", markersize=14, label="usable")
    memory.set(xlabel="GiB per device", xlim=(0, 1.1 * max(limits)))
    memory.legend(fontsize=7)
    fits = ["#4c72b0" if it.memory.fits else "#cccccc" for it in plans]
    first.barh(names, [1e3 * it.prefill.seconds for it in plans], color=fits)
    first.set(xlabel="ms to the first token, at least")
    further.barh(names, [1e3 * it.decode.seconds for it in plans], color=fits)
    further.set(xlabel="ms for each step, at least (grey: does not fit)")
    memory.invert_yaxis()
    figure.savefig(file, dpi=150)
