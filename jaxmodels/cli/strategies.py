"""The decoding strategies that `jaxmodels generate` offers, and the options that belong to each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from jaxmodels.cli.common import tell

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.decoding import Autoregressive, Strategy
    from jaxmodels.models.decoder import Decoder


class StrategyName(StrEnum):
    """What --strategy takes."""

    AUTO = "auto"
    AUTOREGRESSIVE = "autoregressive"
    SPECULATIVE = "speculative"
    PROMPT_LOOKUP = "prompt-lookup"
    SUFFIX = "suffix"
    SUFFIX_TREE = "suffix-tree"
    LOOKAHEAD = "lookahead"
    FIRST_LAYERS = "first-layers"
    MTP = "mtp"
    JACOBI = "jacobi"
    BEST_OF = "best-of"
    EARLY_EXIT = "early-exit"
    MASKED_DIFFUSION = "masked-diffusion"
    STREAMING_DIFFUSION = "streaming-diffusion"


class CanvasCacheName(StrEnum):
    """What --canvas-cache takes."""

    NONE = "none"
    PREFIX = "prefix"
    DUAL = "dual"
    FINISHED_BLOCKS = "finished-blocks"


class DraftLengthName(StrEnum):
    """What --draft-length takes."""

    WHOLE = "whole"
    CONFIDENT = "confident"
    GROW_SHRINK = "grow-shrink"
    MEAN_ACCEPTED = "mean-accepted"


MOST_DRAFT_TOKENS = 2**30
# Strategies that draft tokens and verify them.
DRAFTING = (
    StrategyName.SPECULATIVE,
    StrategyName.PROMPT_LOOKUP,
    StrategyName.SUFFIX,
    StrategyName.LOOKAHEAD,
    StrategyName.FIRST_LAYERS,
    StrategyName.MTP,
)
# What a model may be decoded with where no strategy is named.
DEFAULTS = (
    StrategyName.AUTOREGRESSIVE,
    StrategyName.MASKED_DIFFUSION,
    StrategyName.STREAMING_DIFFUSION,
)
BELONGS_TO = {
    "draft": (StrategyName.SPECULATIVE, StrategyName.AUTO),
    "draft_tokens": (
        StrategyName.SPECULATIVE,
        StrategyName.PROMPT_LOOKUP,
        StrategyName.SUFFIX,
        StrategyName.SUFFIX_TREE,
        StrategyName.FIRST_LAYERS,
        StrategyName.MTP,
        StrategyName.JACOBI,
    ),
    "draft_length": DRAFTING,
    "acceptance_head": (StrategyName.SPECULATIVE,),
    "draft_layers": (StrategyName.FIRST_LAYERS,),
    "samples": (StrategyName.BEST_OF,),
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
            "keep the text, all but early-exit and best-of. auto tries those that keep it on the prompt, and "
            "drafts that are bundled for the model or given by --draft, and takes the fastest.",
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
            help="With strategies that draft: tokens drafted per step (--guesses is its former name).",
        ),
    ] = None
    draft_length: Annotated[
        DraftLengthName | None,
        typer.Option(
            help="With strategies that draft: all tokens at once (the default), until the draft is unsure, "
            "or more and fewer by what was accepted."
        ),
    ] = None
    acceptance_head: Annotated[
        str | None,
        typer.Option(
            help="With speculative: a head of the draft model, as train writes it, which ends drafts where "
            "it expects a rejection; in place of --draft-length."
        ),
    ] = None
    draft_layers: Annotated[
        int | None, typer.Option(help="With first-layers: the model's layers that draft.")
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(help="With best-of: samples of the prompt, of which the most probable is the answer."),
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
        if self.draft_length is not None and self.acceptance_head is not None:
            raise ValueError(
                "--draft-length and --acceptance-head are two ways to end drafts; leave out one of them"
            )
        if self.draft_tokens is not None and self.draft_tokens < 1:
            raise ValueError(f"--draft-tokens must be at least 1, got {self.draft_tokens}")
        if self.draft_tokens is not None and self.draft_tokens > MOST_DRAFT_TOKENS:
            raise ValueError(f"--draft-tokens must be at most {MOST_DRAFT_TOKENS}, got {self.draft_tokens}")
        if self.name is StrategyName.SPECULATIVE and self.draft is None:
            raise ValueError(
                "--strategy speculative needs --draft, a small model with the same tokenizer or a draft head"
            )
        if self.name is StrategyName.FIRST_LAYERS and self.draft_layers is None:
            raise ValueError("--strategy first-layers needs --draft-layers, how many of them draft")

    def build(self, base: "Autoregressive", load: Callable[[str], "Model"], asked: Asked) -> "Strategy":
        """The strategy by which the model continues as `base` would; `load` reads the draft model.

        Raises:
            ValueError: `base` has settings that the strategy has no place for.
        """
        from jaxmodels.decoding import StreamingDiffusion

        name = self._resolved(asked.model, asked.max_new_tokens)
        shared: dict[str, Any] = {
            "sampler": base.sampler,
            "processors": base.processors,
            "top_logprobs": base.top_logprobs,
            "prefill_window": base.prefill_window,
        }
        of_their_own: dict[StrategyName, Callable[[], Strategy]] = {
            StrategyName.AUTOREGRESSIVE: lambda: base,
            StrategyName.AUTO: lambda: self._fastest(base, asked),
            StrategyName.EARLY_EXIT: lambda: self._early_exit(base),
            StrategyName.BEST_OF: lambda: self._best_of(shared),
            StrategyName.STREAMING_DIFFUSION: lambda: StreamingDiffusion(**shared),
            StrategyName.MASKED_DIFFUSION: lambda: self._masked(asked, shared),
        }
        return of_their_own.get(name, lambda: self._drafting(name, load, shared))()

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

    def _early_exit(self, base: "Autoregressive") -> "Strategy":
        from jaxmodels.decoding import EarlyExit

        given = {key: getattr(self, key) for key in ("threshold", "min_layers")}
        return EarlyExit(decode=base, **_given(given))

    def _drafting(
        self, name: StrategyName, load: Callable[[str], "Model"], shared: dict[str, Any]
    ) -> "Strategy":
        """The strategies that verify what was drafted."""
        from jaxmodels.decoding import Jacobi, Speculative

        if name is StrategyName.JACOBI:
            window = None if self.draft_tokens is None else self.draft_tokens + 1
            return Jacobi(**shared, **_given({"window": window}))
        shared = shared | _given({"length": self._length()})
        if name is StrategyName.SPECULATIVE:
            return Speculative(draft=self._draft(load), **shared, **_given({"gamma": self.draft_tokens}))
        return Speculative(draft=self._drafter(name), **shared)

    def _draft(self, load: Callable[[str], "Model"]) -> Any:
        """The draft that is named: a head by its name, which `Model.generate` loads, or a model."""
        from jaxmodels.checkpoints.draft_heads import is_drafter
        from jaxmodels.decoding import Draft
        from jaxmodels.io import as_language_model

        assert self.draft is not None
        if is_drafter(self.draft):
            return self.draft
        draft = as_language_model(load(self.draft), self.draft)
        return Draft(draft.config, draft.params)

    def _length(self) -> Any:
        """The policy that is named, None for none."""
        from jaxmodels.checkpoints.draft_heads import load_draft_length
        from jaxmodels.decoding import lengths

        if self.acceptance_head is not None:
            return load_draft_length(self.acceptance_head)
        kinds: dict[DraftLengthName, Callable[[], Any]] = {
            DraftLengthName.WHOLE: lengths.Whole,
            DraftLengthName.CONFIDENT: lengths.Confident,
            DraftLengthName.GROW_SHRINK: lengths.GrowShrink,
            DraftLengthName.MEAN_ACCEPTED: lengths.MeanAccepted,
        }
        return None if self.draft_length is None else kinds[self.draft_length]()

    def _drafter(self, name: StrategyName) -> Any:
        """What drafts without a model or head of its own."""
        from jaxmodels.decoding import MTP, FirstLayers, Lookahead, PromptLookup, SuffixDecoding, SuffixTree

        kinds: dict[StrategyName, Callable[..., Any]] = {
            StrategyName.PROMPT_LOOKUP: PromptLookup,
            StrategyName.SUFFIX: SuffixDecoding,
            StrategyName.SUFFIX_TREE: lambda **given: SuffixTree(search=SuffixDecoding(**given)),
            StrategyName.LOOKAHEAD: Lookahead,
            StrategyName.FIRST_LAYERS: FirstLayers,
            StrategyName.MTP: MTP,
        }
        return kinds[name](**_given({"size": self.draft_tokens, "layers": self.draft_layers}))

    def _best_of(self, shared: dict[str, Any]) -> "Strategy":
        from jaxmodels.decoding import Greedy
        from jaxmodels.decoding.choosing import BestOf

        if shared["sampler"] == Greedy():
            raise ValueError("--strategy best-of draws its samples; give --temperature or --recommended")
        return BestOf(**shared, **_given({"samples": self.samples}))

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


@dataclass(frozen=True)
class _Described:
    """A model without weights, as far as strategies look at it."""

    config: "Decoder"


def described_strategy(
    config: "Decoder",
    options: StrategyOptions,
    base: "Autoregressive",
    load: Callable[[str], "Model"],
    max_new_tokens: int,
) -> "Strategy":
    """`StrategyOptions.build` for a model whose weights are not read.

    Raises:
        ValueError: as there, or a strategy that is found by trials.
    """
    if options.name is StrategyName.AUTO:
        raise ValueError("--strategy auto tries strategies with the weights; name one of them")
    model = cast("Model", _Described(config))
    return options.build(base, load, Asked(model, name="", prompt=[], max_new_tokens=max_new_tokens))
