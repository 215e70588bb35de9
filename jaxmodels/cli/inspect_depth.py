"""The part of `jaxmodels inspect` that shows what each block contributes to a text."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmodels.cli.inspect_text import check_image, encode

if TYPE_CHECKING:
    from jaxmodels.model import Model

# Tokens of a text that are looked at: what is measured is a mean over them.
MOST_TOKENS = 1024


def depth_report(model: "Model", text: str, speed_up: float, image: Path | None) -> dict[str, Any]:
    """What each block contributes, and which blocks could be skipped, as JSON values; drawn where an image
    is named.

    Raises:
        ValueError: a model that fills in masks; see `encode`, `contributions` and `blocks_to_skip`.
        ImportError: matplotlib is not installed, and an image is wanted.
    """
    import numpy as np

    from jaxmodels.decoding.depth import speed_up_of
    from jaxmodels.depth_bench.contributions import blocks_to_skip, contributions

    if model.decoder.filling is not None:
        raise ValueError("this model fills in masks; --depth looks at predictions of the next token")
    if image is not None:
        _check_plot(image)
    tokens = np.asarray(encode(model, text, MOST_TOKENS))
    plan, effect = blocks_to_skip(model.decoder, model.params, tokens, speed_up)
    blocks = [asdict(one) for one in contributions(model.decoder, model.params, tokens)]
    if image is not None:
        _plot(blocks, image)
    return {
        "tokens": tokens.size,
        "blocks": blocks,
        "proposal": {
            "for_speed_up": speed_up,
            "skip": [i for i, times in enumerate(plan.passes) if not times],
            "passes": list(plan.passes),
            "speed_up": speed_up_of(model.decoder, plan),
            **asdict(effect),
        },
    }


def depth_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as pairs of a name and a text."""
    lines = []
    for i, block in enumerate(report["blocks"]):
        skipped = block["skipped"]
        text = (
            f"adds {block['norm_ratio']:.2f} of the stream's norm, cosine {block['cosine']:+.2f}; skipped: "
            f"agreement {skipped['agreement']:.3f}, divergence {skipped['divergence']:.3f} nats"
        )
        lines.append((f"block {i}", text))
    found = report["proposal"]
    text = (
        f"skip {', '.join(map(str, found['skip'])) or 'nothing'}: {found['speed_up']:.2f} times as fast, "
        f"agreement {found['agreement']:.3f}, divergence {found['divergence']:.3f} nats, cross-entropy "
        f"{found['nats']:+.3f} nats"
    )
    return [*lines, (f"for {found['for_speed_up']:g} times the speed", text)]


def _check_plot(image: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'jaxmodels[plot]'") from error
    check_image(image, Figure())


def _plot(blocks: list[dict[str, Any]], image: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    drawn = (
        ("norm of what is added\nover the stream's", [one["norm_ratio"] for one in blocks]),
        ("cosine of what is added\nand the stream", [one["cosine"] for one in blocks]),
        ("divergence when\nskipped, nats", [one["skipped"]["divergence"] for one in blocks]),
    )
    for panel, (name, values) in zip(panels, drawn, strict=True):
        panel.bar(range(len(values)), values, color="0.4")
        panel.axhline(0.0, color="0.8", linewidth=0.9)
        panel.set_ylabel(name, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_yscale("log")
    panels[-1].set_xlabel("block", fontsize=9)
    figure.savefig(image, dpi=150)
