"""Trials as a table, as JSON and as a figure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from jaxmodels.decoding_bench.measure import Trial

SHOWN_PLACES = 4


def as_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One object per trial, under the names of the fields of `Trial`."""
    return [asdict(trial) for trial in trials]


def table(trials: Sequence[Trial]) -> Table:
    """The trials as `rich` prints them."""
    drawn = any(trial.distance is not None for trial in trials)
    made = Table(
        "strategy",
        title="Strategies against sequential decoding",
        caption="accepted: share of calls that accepted at least 1, 2, ... drafted tokens; "
        + (
            "distance: total variation to sequential draws, and what chance alone gives"
            if drawn
            else "agreement: share of tokens that are those of sequential decoding"
        ),
        box=box.SIMPLE_HEAD,
    )
    for name in ("tokens/s", "speed", "tokens per call", "accepted", "distance" if drawn else "agreement"):
        made.add_column(name, justify="right")
    for trial in trials:
        near = f"{trial.distance:.3f} ({trial.chance:.3f})" if drawn else f"{trial.agreement:.3f}"
        made.add_row(
            trial.name if trial.keeps_text else f"{trial.name} (other text)",
            f"{trial.tokens_per_second:,.0f}",
            f"{trial.speed:.2f}",
            f"{trial.tokens_per_call:.2f}",
            " ".join(f"{share:.2f}" for share in trial.accepted_at[:SHOWN_PLACES]) or "-",
            near,
        )
    return made


def plot(trials: Sequence[Trial], path: str | Path) -> None:
    """Speed against tokens per call of the model; the ending of `path` chooses the format.

    Points on the diagonal gain all that their calls save; the distance below it is what drafting and longer
    windows cost. Needs matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    most = max(max(trial.tokens_per_call, trial.speed) for trial in trials)
    axes.plot([0, most], [0, most], color="0.8", linewidth=0.9, zorder=0)
    axes.axhline(1.0, color="0.8", linewidth=0.9, linestyle=":", zorder=0)
    for trial in trials:
        axes.plot(trial.tokens_per_call, trial.speed, "o" if trial.keeps_text else "x", markersize=5)
        axes.annotate(
            trial.name, (trial.tokens_per_call, trial.speed),
            xytext=(5, 3), textcoords="offset points", fontsize=7,
        )  # fmt: skip
    axes.set_xlabel("tokens per call of the model", fontsize=9)
    axes.set_ylabel("speed, sequential decoding = 1", fontsize=9)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith(".svg") else None)
