"""Accuracy against tokens per call of the model, one panel per task. Needs matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.parallel_bench.measure import AUTOREGRESSIVE, Trial
from jaxmodels.parallel_bench.report import optimum

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PANELS = 4  # beside each other


def plot(trials: Sequence[Trial], length: int, path: str | Path) -> None:
    """Writes the figure; the ending of `path` chooses its format.

    Lines are rules, from careful to fast. Behind them is what a model of exact probabilities reaches: at
    most, by whatever rule (the grey area), and with so many places in each call (crosses).
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(trial.task for trial in trials))
    across = min(PANELS, len(tasks))
    down = math.ceil(len(tasks) / across)
    figure = Figure(figsize=(3.2 * across, 2.6 * down + 0.8), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat
    handles: dict[str, Artist] = {}
    for task, panel in zip(tasks, panels, strict=False):
        panel.set_xlabel("tokens per call of the model", fontsize=8)
        _draw(panel, task, [trial for trial in trials if trial.task == task], length)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    for panel in list(panels)[len(tasks) :]:
        panel.set_axis_off()
    figure.legend(handles.values(), list(handles), loc="outside lower center", ncols=5, fontsize=7)
    figure.supylabel("share of right answers", fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith(".svg") else None)


def _draw(panel: "Axes", task: str, trials: Sequence[Trial], length: int) -> None:
    canvas = trials[0].canvas
    best = optimum(task, length, canvas)
    speeds = np.linspace(1, canvas, 200)
    panel.fill_between(speeds, [best.at(canvas / it) for it in speeds], color="0.92", label="within reach")
    plan = {canvas / math.ceil(canvas / k): share for k, share in reversed(list(enumerate(best.by_plan, 1)))}
    panel.plot(list(plan), list(plan.values()), "kx", markersize=4, label="best of a plan")
    for rule in dict.fromkeys(trial.rule for trial in trials):
        of_rule = [trial for trial in trials if trial.rule == rule]
        panel.plot(
            [trial.tokens_per_call for trial in of_rule],
            [trial.accuracy for trial in of_rule],
            "k*" if rule == AUTOREGRESSIVE else ".-",
            linewidth=0.9,
            markersize=7 if rule == AUTOREGRESSIVE else 4,
            label=rule.replace("_", " "),
        )
    panel.set_title(task.replace("_", " "), fontsize=9, loc="left")
    panel.set_ylim(-0.03, 1.05)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
