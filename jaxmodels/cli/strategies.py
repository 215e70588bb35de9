"""The decoding strategies that `jaxmodels generate` offers, and the options that belong to each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxmodels.cli.common import tell

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.decoding import Autoregressive, Strategy


class StrategyName(StrEnum):
    """What --strategy takes."""

    AUTO = "auto"
    AUTOREGRESSIVE = "autoregressive"
    SPECULATIVE = "speculative"
    PROMPT_LOOKUP = "prompt-lookup"
    JACOBI = "jacobi"
    EARLY_EXIT = "early-exit"
    MASKED_DIFFUSION = "masked-diffusion"
    STREAMING_DIFFUSION = "streaming-diffusion"


class CanvasCacheName(StrEnum):
    """What --canvas-cache takes."""

    NONE = "none"
    PREFIX = "prefix"
    DUAL = "dual"
    FINISHED_BLOCKS = "finished-blocks"


MOST_DRAFT_TOKENS = 2**30
# What a model may be decoded with where no strategy is named.
DEFAULTS = (
    StrategyName.AUTOREGRESSIVE,
    StrategyName.MASKED_DIFFUSION,
    StrategyName.STREAMING_DIFFUSION,
)
BELONGS_TO = {
    "draft": (StrategyName.SPECULATIVE, StrategyName.AUTO),
    "draft_tokens": (StrategyName.SPECULATIVE, StrategyName.PROMPT_LOOKUP, StrategyName.JACOBI),
    "threshold": (StrategyName.EARLY_EXIT, StrategyName.MASKED_DIFFUSION),
    "block": (StrategyName.MASKED_DIFFUSION,),
    "steps": (StrategyName.MASKED_DIFFUSION,),
    "canvas_cache": (StrategyName.MASKED_DIFFUSION,),
    "min_layers": (StrategyName.EARLY_EXIT,),
}


@dataclass(frozen=True)
class Asked:
    """What is to be continued: by which model, loaded as `name`, from which tokens, by how many at most."""

    model: "Model"
    name: str
    prompt: list[int]
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class StrategyOptions:
    """A strategy and its options as given, None where they were not.

    Raises:
        ValueError: an option of another strategy, a number below 1, or no draft for speculation.
    """

    name: Annotated[
        StrategyName | None,
        typer.Option(
            "--strategy",
            help="How tokens are found; by default what the model was trained for. Those for causal models "
            "keep the text, all but early-exit. auto tries those that keep it on the prompt, with the drafts "
            "bundled for the model and --draft, and takes the fastest.",
        ),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option(
            help="With speculative and auto: the small model that drafts, as --model, or a draft head of the "
            "model."
        ),
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
        float | None,
        typer.Option(
            help="With early-exit: probability at which a token skips what is left. With masked-diffusion: "
            "probability from which a token is filled in."
        ),
    ] = None
    block: Annotated[
        int | None,
        typer.Option(help="With masked-diffusion: tokens of a block; by default the model's, or 32."),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="With masked-diffusion: steps per block; each fills in its share, the most probable "
            "tokens first; in place of --threshold."
        ),
    ] = None
    canvas_cache: Annotated[
        CanvasCacheName | None,
        typer.Option(help="With masked-diffusion: what is kept between steps; by default what is exact."),
    ] = None
    min_layers: Annotated[
        int | None, typer.Option(help="With early-exit: layers that every token goes through.")
    ] = None

    def __post_init__(self) -> None:
        self._check_owners(DEFAULTS if self.name is None else (self.name,))
        if self.steps is not None and self.threshold is not None:
            raise ValueError("--steps and --threshold are two ways to choose tokens; leave out one of them")
        if self.draft_tokens is not None and self.draft_tokens < 1:
            raise ValueError(f"--draft-tokens must be at least 1, got {self.draft_tokens}")
        if self.draft_tokens is not None and self.draft_tokens > MOST_DRAFT_TOKENS:
            raise ValueError(f"--draft-tokens must be at most {MOST_DRAFT_TOKENS}, got {self.draft_tokens}")
        if self.name is StrategyName.SPECULATIVE and self.draft is None:
            raise ValueError("--strategy speculative needs --draft, a small model with the same tokenizer")

    def build(self, base: "Autoregressive", load: Callable[[str], "Model"], asked: Asked) -> "Strategy":
        """The strategy by which the model continues as `base` would; `load` reads the draft model.

        Raises:
            ValueError: `base` has settings that the strategy has no place for.
        """
        from jaxmodels.decoding import EarlyExit, StreamingDiffusion

        name = self._resolved(asked.model, asked.max_new_tokens)
        if name is StrategyName.AUTOREGRESSIVE:
            return base
        if name is StrategyName.AUTO:
            return self._fastest(base, asked)
        if name is StrategyName.EARLY_EXIT:
            given = {key: getattr(self, key) for key in ("threshold", "min_layers")}
            return EarlyExit(decode=base, **_given(given))
        shared: dict[str, Any] = {
            "processors": base.processors,
            "top_logprobs": base.top_logprobs,
            "prefill_window": base.prefill_window,
        }
        if name is StrategyName.STREAMING_DIFFUSION:
            return StreamingDiffusion(sampler=base.sampler, **shared)
        if name is StrategyName.MASKED_DIFFUSION:
            return self._masked(asked, shared | {"sampler": base.sampler})
        return self._drafting(name, base, load, shared)

    def _resolved(self, model: "Model", max_new_tokens: int) -> StrategyName:
        """The strategy that is named, or that of the model."""
        from jaxmodels.decoding import MaskedDiffusion, StreamingDiffusion
        from jaxmodels.decoding.default import default_strategy

        if self.name is not None:
            return self.name
        names = {
            MaskedDiffusion: StrategyName.MASKED_DIFFUSION,
            StreamingDiffusion: StrategyName.STREAMING_DIFFUSION,
        }
        default = default_strategy(model.config, max_new_tokens)
        name = names.get(type(default), StrategyName.AUTOREGRESSIVE)
        self._check_owners((name,))
        return name

    def _drafting(
        self,
        name: StrategyName,
        base: "Autoregressive",
        load: Callable[[str], "Model"],
        shared: dict[str, Any],
    ) -> "Strategy":
        """The strategies that verify what was drafted or guessed."""
        from jaxmodels.checkpoints.draft_heads import is_drafter
        from jaxmodels.decoding import Draft, Greedy, Jacobi, PromptLookup, Speculative
        from jaxmodels.io import as_language_model

        if name is StrategyName.JACOBI:
            if base.sampler != Greedy():
                raise ValueError("--strategy jacobi is greedy; leave out --recommended and sampling")
            window = None if self.draft_tokens is None else self.draft_tokens + 1
            return Jacobi(**shared, **_given({"window": window}))
        if name is StrategyName.PROMPT_LOOKUP:
            drafter = PromptLookup(**_given({"size": self.draft_tokens}))
            return Speculative(draft=drafter, sampler=base.sampler, **shared)
        assert self.draft is not None
        shared |= {"sampler": base.sampler, **_given({"gamma": self.draft_tokens})}
        if is_drafter(self.draft):  # which `Model.generate` loads, as it knows the target
            return Speculative(draft=self.draft, **shared)
        draft = as_language_model(load(self.draft), self.draft)
        return Speculative(draft=Draft(draft.config, draft.params), **shared)

    def _check_owners(self, names: tuple[StrategyName, ...]) -> None:
        """Raises ValueError where an option belongs to none of these strategies."""
        for option, owners in BELONGS_TO.items():
            if getattr(self, option) is not None and not set(owners) & set(names):
                listed = " or ".join(f"--strategy {name}" for name in owners)
                raise ValueError(f"--{option.replace('_', '-')} belongs to {listed}")

    def _fastest(self, base: "Autoregressive", asked: Asked) -> "Strategy":
        """The fastest strategy that keeps the text, by a trial on the prompt; standard error tells which."""
        from jaxmodels.cli.bench_decoding import drafts_for
        from jaxmodels.decoding_bench.auto import choose

        named = [] if self.draft is None else [self.draft]
        choice = choose(
            asked.model,
            asked.prompt,
            base,
            drafts_for(asked.model, asked.name, named),
            max_new_tokens=asked.max_new_tokens,
        )
        speeds = ", ".join(f"{trial.name} {trial.speed:.2f}" for trial in choice.trials)
        tell(f"strategy: {choice.contestant.name} (speeds: {speeds})")
        return choice.contestant.strategy

    def _masked(self, asked: Asked, shared: dict[str, Any]) -> "Strategy":
        """Masked diffusion with these options, else as the model is decoded by default."""
        from jaxmodels.decoding import MaskedDiffusion, masked
        from jaxmodels.decoding.default import default_strategy

        default = default_strategy(asked.model.config, asked.max_new_tokens)
        start = default if isinstance(default, MaskedDiffusion) else MaskedDiffusion()
        options: dict[str, Any] = {
            "blocks": None if self.block is None else masked.FixedBlocks(self.block),
            "unmask": None if self.threshold is None else masked.Threshold(self.threshold),
            "cache": None if self.canvas_cache is None else masked.caches.BY_NAME[self.canvas_cache],
        }
        if self.steps is not None:
            options |= {"steps": self.steps, "unmask": masked.unmask.Quota()}
        return replace(start, **shared, **_given(options))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
