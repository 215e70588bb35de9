"""`jaxmodels bench depth`: what leaving and skipping blocks saves of a model's time, and what it costs."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmodels.cli.common import (
    DEFAULT_MODEL,
    MODEL_HELP,
    AsJson,
    DType,
    Revision,
    check_plot,
    print_json,
    tell,
)


def depth(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = DEFAULT_MODEL,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A trained policy of depth beside the others, as load_depth takes it. Repeatable."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Of those that need no training, this kind alone. Repeatable; by default all."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A text whose beginning is read. Repeatable; by default held-out sources of the standard "
            "library.",
        ),
    ] = None,
    texts: Annotated[int, typer.Option(min=1, help="Texts, each read and continued by itself.")] = 8,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each that are read with all blocks.")] = 64,
    new: Annotated[int, typer.Option(min=2, help="Tokens behind them, given and generated.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each policy; the median is shown.")] = 3,
    dtype: Annotated[DType | None, typer.Option(help="Of the parameters.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw quality against speed here (matplotlib).")] = None,
    as_json: AsJson = False,
    revision: Revision = None,
) -> None:
    """Measure early exits and skipped blocks against decoding with all blocks.

    Each policy is tried at some thresholds: blocks read per token, tokens per second, how many next tokens
    are those of all blocks (with the model's own greedy answers given, and with held-out text given), and
    bits per byte of the held-out text. Sequential decoding with all blocks comes first.
    """
    check_plot(plot)
    import jaxmodels as jm
    from jaxmodels.decoding_bench.prompts import held_out_prompts, prompts_from
    from jaxmodels.depth_bench.contestants import KINDS, contestants
    from jaxmodels.depth_bench.measure import sit
    from jaxmodels.depth_bench.report import as_json as listed
    from jaxmodels.depth_bench.report import plot as draw
    from jaxmodels.depth_bench.report import table
    from jaxmodels.io import as_language_model

    loaded = as_language_model(jm.load(model, dtype=dtype and dtype.value, revision=revision), model)
    trained = {name: jm.load_depth(name, loaded) for name in policy or []}
    field = contestants(loaded.decoder, trained, tuple(kind or KINDS))
    if loaded.tokenizer is None:
        raise ValueError(f"{model!r} has no tokenizer, which the texts need")
    size = prompt + new
    read = (
        prompts_from(loaded.tokenizer, file, len(file), size)
        if file
        else held_out_prompts(loaded.tokenizer, texts, size)
    )
    trials = []
    for one, trial in zip(field, sit(loaded, field, read, prompt=prompt, rounds=rounds), strict=True):
        tell(f"{one.name}: {trial.speed:.2f}")
        trials.append(trial)
    if plot is not None:
        draw(trials, plot)
    if as_json:
        print_json({"model": model, "blocks": len(loaded.decoder.blocks), "trials": listed(trials)})
        return
    from rich.console import Console

    Console().print(table(trials))
