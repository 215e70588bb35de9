"""`jaxmodels fill-mask`: the best tokens for the masks of a text."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmodels.cli.common import MODEL_HELP, AllowPickle, AsJson, DType, Revision, Verify, print_json

if TYPE_CHECKING:
    from jaxmodels.decoding.fill_mask import FilledText


def fill_mask(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="With the model's mask token in it.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Tokens to show for each mask.")] = 5,
    dtype: Annotated[DType | None, typer.Option(help="Of the parameters.")] = None,
    as_json: AsJson = False,
    allow_pickle: AllowPickle = False,
    verify: Verify = True,
    revision: Revision = None,
) -> None:
    """Show the best tokens for each mask of a text, with their probabilities, and the text filled in.

    A mask is written as the model's tokenizer writes it, such as [MASK].
    """
    import jaxmodels as jm
    from jaxmodels.io import as_language_model

    loaded = jm.load(
        model, dtype=dtype and dtype.value, allow_pickle=allow_pickle, verify=verify, revision=revision
    )
    (filled,) = as_language_model(loaded, model).fill_mask(text, top_k)
    if as_json:
        print_json(asdict(filled) | {"tokens": filled.tokens.tolist()})
    else:
        _print(filled)


def _print(filled: "FilledText") -> None:
    for mask in filled.masks:
        print(f"token {mask.position}:")
        for candidate in mask.candidates:
            print(f"  {candidate.probability:7.2%}  {candidate.text}")
    print(filled.text)
