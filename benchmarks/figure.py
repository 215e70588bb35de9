"""Draws the figures of docs/figures/ that come from stored results: speed and parallel decoding.

python -m benchmarks.figure
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.report import RESULTS, load_results
from jaxmodels.parallel_bench.measure import AUTOREGRESSIVE, Trial
from jaxmodels.parallel_bench.plot import plot

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
FIGURE = FIGURES / "speed.svg"
PARALLEL = FIGURES / "parallel_bench.svg"
SHAPES = {"decode_prefill_mamba2_130m": "Mamba-2 130M", "decode_prefill_qwen3_100m": "Qwen3 100M"}
LABELS = {"JaxModels": "jaxmodels", "Transformers": "transformers + PyTorch", "Mamba2Jax": "mamba2-jax"}
COLOURS = {"JaxModels": "#1f6feb", "Transformers": "#8c959f", "Mamba2Jax": "#d0d7de"}
MEASURES = {"decode": "decoding, ms per token", "prefill_last": "prefill of 512 tokens, ms"}


def draw(results: Mapping[str, Mapping[str, Any]]) -> None:
    """One row of bars per contestant, one panel per shape and measure; shorter is better."""
    figure, axes = plt.subplots(len(SHAPES), len(MEASURES), figsize=(8.5, 3.0), layout="constrained")
    for row, (name, shape) in zip(axes, SHAPES.items(), strict=True):
        speeds = results[name]["values"]["median_s"]
        for axis, (measure, label) in zip(row, MEASURES.items(), strict=True):
            names = list(reversed(speeds))
            values = [1e3 * speeds[who][measure] for who in names]
            bars = axis.barh([LABELS[who] for who in names], values, color=[COLOURS[who] for who in names])
            axis.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
            axis.set_title(f"{shape}: {label}", fontsize=9, loc="left")
            axis.set_xlim(0, 1.15 * max(values))
            axis.xaxis.set_visible(False)
            axis.tick_params(labelsize=8, length=0)
            axis.spines[["top", "right", "bottom"]].set_visible(False)
    machine = next(iter(results.values()))["machine"]
    figure.supxlabel(
        f"float32, batch 1, the same weights, {machine['cores']}-core CPU; shorter is better", fontsize=8
    )
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    plt.close(figure)


def draw_parallel(result: Mapping[str, Any]) -> None:
    """Accuracy against tokens per call, on the tasks that all rules were compared on."""
    values = result["values"]
    compared = [Trial(**it) for it in values["every_rule"]]
    tasks = {trial.task for trial in compared}
    twin = [Trial(**it) for it in values["every_task"] if it["rule"] == AUTOREGRESSIVE]
    plot([*(trial for trial in twin if trial.task in tasks), *compared], values["length"], PARALLEL)


def main() -> None:
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "speed"  # the same bytes for the same results
    by_name = {result["name"]: result for result in load_results(RESULTS)}
    draw({name: by_name[name] for name in SHAPES})
    draw_parallel(by_name["parallel_decoding"])
    print(f"wrote {FIGURE} and {PARALLEL}")


if __name__ == "__main__":
    main()
