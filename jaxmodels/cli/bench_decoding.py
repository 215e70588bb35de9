"""`jaxmodels bench decoding`: every strategy that a model can be decoded by, in one contest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from jaxmodels import Model


def decoding(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = DEFAULT_MODEL,
    draft: Annotated[
        list[str] | None,
        typer.Option(help="What drafts, as --model, beside what is bundled for the model. Repeatable."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A text whose beginning is a prompt. Repeatable; by default "
            "held-out sources of the standard library.",
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts, each continued by itself.")] = 4,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 64,
    new: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each strategy; the median is shown.")] = 3,
    temperature: Annotated[float, typer.Option(min=0, help="At which tokens are drawn; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    dtype: Annotated[DType | None, typer.Option(help="Of the parameters.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw speed against calls here (matplotlib).")] = None,
    as_json: AsJson = False,
    revision: Revision = None,
) -> None:
    """Measure every decoding strategy that a model can have, against sequential decoding.

    They take turns at the same prompts, one at a time. Beside the speed stand the tokens per call of the
    model, how many drafted tokens are accepted, and how near the text stays to that of sequential decoding.
    """
    check_plot(plot)
    import jaxmodels as jm
    from jaxmodels.decoding import Autoregressive, Greedy, Sample
    from jaxmodels.decoding_bench.contestants import contestants
    from jaxmodels.decoding_bench.measure import Exam, sit
    from jaxmodels.decoding_bench.report import as_json as listed
    from jaxmodels.decoding_bench.report import plot as draw
    from jaxmodels.decoding_bench.report import table
    from jaxmodels.io import as_language_model

    loaded = as_language_model(jm.load(model, dtype=dtype and dtype.value, revision=revision), model)
    exam = Exam(
        prompts=_prompts(loaded, model, file or [], prompts, prompt), new=new, rounds=rounds, seed=seed
    )
    base = Autoregressive(sampler=Sample(temperature=temperature) if temperature else Greedy())
    trials = []
    for trial in sit(loaded, contestants(loaded, base, drafts_for(loaded, model, draft or [])), exam):
        tell(f"{trial.name}: {trial.speed:.2f}")
        trials.append(trial)
    if plot is not None:
        draw(trials, plot)
    if as_json:
        print_json({"model": model, "trials": listed(trials)})
        return
    from rich.console import Console

    Console().print(table(trials))


def drafts_for(model: "Model", name: str, named: list[str]) -> dict[str, Any]:
    """What drafts for the model of this name, loaded, by name: what is bundled for it and what was named."""
    from jaxmodels.decoding_bench.drafts import bundled_drafts, load_draft

    return {
        draft: load_draft(draft, model.config) for draft in dict.fromkeys([*bundled_drafts(name), *named])
    }


def _prompts(model: "Model", name: str, files: list[Path], count: int, size: int) -> Any:
    from jaxmodels.decoding_bench.prompts import held_out_prompts, prompts_from

    if model.tokenizer is None:
        raise ValueError(f"{name!r} has no tokenizer, which the prompts need")
    if files:
        return prompts_from(model.tokenizer, files, len(files), size)
    return held_out_prompts(model.tokenizer, count, size)
