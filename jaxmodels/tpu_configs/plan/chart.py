"""Plans of several slices as bars side by side."""

from collections.abc import Sequence
from pathlib import Path

from jaxmodels.tpu_configs.plan.denoising import DenoiserPlan
from jaxmodels.tpu_configs.plan.planning import Plan

GIB = 2**30
# The parts of a device's memory, and their colours.
PARTS = {"parameters": "#4c72b0", "cache": "#dd8452", "working": "#55a868", "code": "#8172b3"}


def draw(plans: Sequence[Plan] | Sequence[DenoiserPlan], file: Path) -> None:
    """Draws memory of a device beside what it has, and the least times of the plans, which are of one model.

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
    memory, *axes = figure.subplots(1, 3, sharey=True)
    left = [0.0] * len(plans)
    for part, colour in PARTS.items():
        sizes = [it.memory.parts.get(part, 0) / GIB for it in plans]
        memory.barh(names, sizes, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    limits = [it.memory.usable / GIB for it in plans]
    memory.plot(limits, names, "|", color="black", markersize=14, label="usable")
    memory.set(xlabel="GiB per device", xlim=(0, 1.1 * max(limits)))
    memory.legend(fontsize=7)
    fits = ["#4c72b0" if it.memory.fits else "#cccccc" for it in plans]
    for axis, name in zip(axes, plans[0].times, strict=True):
        axis.barh(names, [1e3 * it.times[name] for it in plans], color=fits)
        axis.set(xlabel=f"{name}: ms at least")
    axes[-1].set_title("grey: does not fit", fontsize=7)
    memory.invert_yaxis()
    figure.savefig(file, dpi=150)
