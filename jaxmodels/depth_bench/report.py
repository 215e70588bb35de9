"""Trials as a table, as JSON and as a figure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from jaxmodels.depth_bench.contestants import PLAIN
from jaxmodels.depth_bench.measure import Trial

COLUMNS = ("at", "blocks", "tokens/s", "speed", "agreement", "held out", "bits per byte", "same text")


def as_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One object per trial, under the names of the fields of `Trial`."""
    return [asdict(trial) for trial in trials]


def table(trials: Sequence[Trial]) -> Table:
    """The trials as `rich` prints them."""
    made = Table(
        "policy",
        title="Policies of depth against all blocks",
        caption="agreement: share of next tokens that are the model's, with its own greedy answers given "
        "and with held-out text given; same text: share of the answers' tokens",
        box=box.SIMPLE_HEAD,
    )
    for name in COLUMNS:
        made.add_column(name, justify="right")
    for it in trials:
        cells = (
            (it.value, "g"), (it.blocks, ".2f"), (it.tokens_per_second, ",.0f"), (it.speed, ".2f"),
            (it.agreement, ".4f"), (it.held_out_agreement, ".4f"), (it.bits_per_byte, ".4f"),
            (it.same_text, ".3f"),
        )  # fmt: skip
        made.add_row(it.kind, *("-" if value is None else f"{value:{how}}" for value, how in cells))
    return made


def plot(trials: Sequence[Trial], path: str | Path) -> None:
    """Agreement against speed, a line for each kind of policy; the ending of `path` chooses the format.

    Filled points are of the model's own answers, hollow ones of held-out text. Needs matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.subplots()
    known = [
        trial for trial in trials if trial.agreement is not None and trial.held_out_agreement is not None
    ]
    axes.axvline(1.0, color="0.8", linewidth=0.9, linestyle=":", zorder=0)
    for number, kind in enumerate(dict.fromkeys(trial.kind for trial in known)):
        some = [trial for trial in known if trial.kind == kind]
        color = "k" if kind == PLAIN else f"C{number}"
        speeds = np.asarray([trial.speed for trial in some])
        own = np.asarray([trial.agreement for trial in some])
        held_out = np.asarray([trial.held_out_agreement for trial in some])
        axes.plot(speeds, own, "o-", label=kind, color=color, linewidth=0.9, markersize=4)
        axes.plot(speeds, held_out, "o--", color=color, linewidth=0.9, markersize=4, markerfacecolor="none")
    axes.set_xlabel("speed, all blocks = 1", fontsize=9)
    axes.set_ylabel("share of next tokens that are the model's", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith(".svg") else None)
