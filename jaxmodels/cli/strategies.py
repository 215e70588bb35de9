"""The decoding strategies that `jaxmodels generate` offers, and the options that belong to each."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.decoding import Autoregressive, Strategy


class StrategyName(StrEnum):
    """What --strategy takes."""

    AUTOREGRESSIVE = "autoregressive"
    SPECULATIVE = "speculative"
    PROMPT_LOOKUP = "prompt-lookup"
    JACOBI = "jacobi"
    EARLY_EXIT = "early-exit"


MOST_DRAFT_TOKENS = 2**30
BELONGS_TO = {
    "draft": (StrategyName.SPECULATIVE,),
    "draft_tokens": (StrategyName.SPECULATIVE, StrategyName.PROMPT_LOOKUP, StrategyName.JACOBI),
    "threshold": (StrategyName.EARLY_EXIT,),
    "min_layers": (StrategyName.EARLY_EXIT,),
}


@dataclass(frozen=True, kw_only=True)
class StrategyOptions:
    """A strategy and its options as given, None where they were not.

    Raises:
        ValueError: an option of another strategy, a number below 1, or no draft for speculation.
    """

    name: Annotated[
        StrategyName,
        typer.Option("--strategy", help="How tokens are found; all but early-exit keep the text."),
    ] = StrategyName.AUTOREGRESSIVE
    draft: Annotated[
        str | None, typer.Option(help="With speculative: the small model that drafts; as --model.")
    ] = None
    draft_tokens: Annotated[
        int | None,
        typer.Option(
            "--draft-tokens",
            "--guesses",
            help="With speculative, prompt-lookup and jacobi: tokens drafted per step (--guesses is its "
            "former name).",
        ),
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="With early-exit: probability at which a token skips what is left.")
    ] = None
    min_layers: Annotated[
        int | None, typer.Option(help="With early-exit: layers that every token goes through.")
    ] = None

    def __post_init__(self) -> None:
        for option, names in BELONGS_TO.items():
            if getattr(self, option) is not None and self.name not in names:
                owners = " or ".join(f"--strategy {name}" for name in names)
                raise ValueError(f"--{option.replace('_', '-')} belongs to {owners}")
        if self.draft_tokens is not None and self.draft_tokens < 1:
            raise ValueError(f"--draft-tokens must be at least 1, got {self.draft_tokens}")
        if self.draft_tokens is not None and self.draft_tokens > MOST_DRAFT_TOKENS:
            raise ValueError(f"--draft-tokens must be at most {MOST_DRAFT_TOKENS}, got {self.draft_tokens}")
        if self.name is StrategyName.SPECULATIVE and self.draft is None:
            raise ValueError("--strategy speculative needs --draft, a small model with the same tokenizer")

    def build(self, base: "Autoregressive", load: Callable[[str], "Model"]) -> "Strategy":
        """The strategy that continues as `base` would; `load` reads the draft model.

        Raises:
            ValueError: `base` has settings that the strategy has no place for.
        """
        from jaxmodels.decoding import Draft, EarlyExit, Greedy, Jacobi, PromptLookup, Speculative

        if self.name is StrategyName.AUTOREGRESSIVE:
            return base
        if self.name is StrategyName.EARLY_EXIT:
            given = {key: getattr(self, key) for key in ("threshold", "min_layers")}
            return EarlyExit(decode=base, **_given(given))
        shared: Any = {
            "processors": base.processors,
            "top_logprobs": base.top_logprobs,
            "prefill_window": base.prefill_window,
        }
        if self.name is StrategyName.JACOBI:
            if base.sampler != Greedy():
                raise ValueError("--strategy jacobi is greedy; leave out --recommended and sampling")
            window = None if self.draft_tokens is None else self.draft_tokens + 1
            return Jacobi(**shared, **_given({"window": window}))
        if self.name is StrategyName.PROMPT_LOOKUP:
            drafter = PromptLookup(**_given({"size": self.draft_tokens}))
            return Speculative(draft=drafter, sampler=base.sampler, **shared)
        assert self.draft is not None
        model = load(self.draft)
        return Speculative(
            draft=Draft(model.config, model.params),
            sampler=base.sampler,
            **shared,
            **_given({"gamma": self.draft_tokens}),
        )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
