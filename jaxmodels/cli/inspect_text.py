"""The parts of `jaxmodels inspect` that need the weights and a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jax import Array
    from matplotlib.figure import Figure

    from jaxmodels.model import Model

# The plotted matrix is quadratic in the tokens, and beyond this nothing can be told apart.
LONGEST_PLOT = 512
LABELLED = 48


def encode(model: "Model", text: str, longest: int | None = None) -> "Array":
    """The text as i32[1, S], cut to `longest` tokens.

    Raises:
        ValueError: the model has no tokenizer, or the text is empty.
    """
    import jax.numpy as jnp

    if model.tokenizer is None:
        raise ValueError("this checkpoint has no tokenizer, so no text can be shown to the model")
    ids = model.tokenizer.encode(text)[:longest]
    if not ids:
        raise ValueError("the text is empty; give some with --text or --file")
    return jnp.asarray([ids], jnp.int32)


def expert_report(model: "Model", text: str) -> dict[str, dict[str, Any]]:
    """The expert load of each mixture block on a text, as JSON values."""
    from jaxmodels.models.inspection import expert_loads

    loads = expert_loads(model.decoder, model.params, encode(model, text))
    return {
        block: {
            "tokens": report.tokens,
            "load": list(report.load),
            "experts_per_token": report.per_token,
            "busiest_over_mean": report.busiest,
            "balance": report.balance,
            "unused": list(report.unused),
        }
        for block, report in loads.items()
    }


def plot_hidden_attention(model: "Model", text: str, block: int, image: Path) -> None:
    """Draws the hidden attention of a block over a text: row i shows where token i looks.

    Raises:
        ValueError: see `models.inspection.hidden_attention`.
        ImportError: matplotlib is not installed.
    """
    from jaxmodels.models.inspection import hidden_attention, importance

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'jaxmodels[plot]'") from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    check_image(image, figure)
    tokens = encode(model, text, LONGEST_PLOT)
    shown = importance(hidden_attention(model.decoder, model.params, tokens, block))
    axes = figure.add_subplot()
    # Rows differ by orders of magnitude; the square root keeps small entries visible.
    drawn = axes.imshow(np.sqrt(shown), cmap="magma", interpolation="nearest")
    figure.colorbar(drawn, label="square root of the share")
    axes.set(xlabel="earlier token", ylabel="token", title=f"hidden attention of block {block}")
    if tokens.shape[1] <= LABELLED and model.tokenizer is not None:
        names = [model.tokenizer.decode([int(t)]).replace("\n", "\\n") for t in tokens[0]]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=6, parse_math=False)
    figure.savefig(image, dpi=150)


def check_image(image: Path, figure: "Figure") -> None:
    """Raises ValueError where no image can be written under a name: before what is drawn is computed."""
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if image.suffix[1:].lower() not in kinds:
        raise ValueError(f"--plot {str(image)!r} must end in .png or another of: {', '.join(kinds)}")
    if image.is_dir() or not image.parent.is_dir():
        raise ValueError(f"--plot {str(image)!r} must be a file in a directory that exists")
