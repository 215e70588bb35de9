"""The log of a run: one JSON object per line, and the curve drawn from it."""

import io
import json
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.atomic import replace_file


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log, in order; none if the file does not exist. What follows a damaged line, as one
    that was cut short, is dropped."""
    path = Path(path)
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        records.append(record)
    return records


def append_metrics(path: str | Path, record: dict[str, Any]) -> None:
    """Adds one record, which must have its `step`."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def rewind_metrics(path: str | Path, step: int) -> None:
    """Drops records of steps after `step`: those that a resumed run is about to write again."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    replace_file(Path(path), "".join(json.dumps(record) + "\n" for record in kept))


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
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format=Path(image).suffix.removeprefix("."))
    replace_file(Path(image), drawn.getvalue())
