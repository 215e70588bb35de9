"""The log of a run: one JSON object per line, and the curve drawn from it."""

import json
from pathlib import Path
from typing import Any


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log, in order; none if the file does not exist. A last line cut short is dropped."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def append_metrics(path: str | Path, record: dict[str, Any]) -> None:
    """Adds one record, which must have its `step`."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def rewind_metrics(path: str | Path, step: int) -> None:
    """Drops records of steps after `step`: those that a resumed run is about to write again."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def plot_loss(metrics: str | Path, image: str | Path) -> None:
    """Draws training and held-out loss in nats per token over steps.

    Raises:
        ImportError: matplotlib is not installed (`pip install jaxmodels[plot]`).
        ValueError: the log is empty.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_loss needs matplotlib: pip install 'jaxmodels[plot]'") from error
    records = read_metrics(metrics)
    if not records:
        raise ValueError(f"plot_loss: {str(metrics)!r} has no records")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in (("loss", "training", "-"), ("held_out_loss", "held out", "o-")):
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(image, dpi=120)
