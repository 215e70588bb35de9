"""The strategies that a model can be continued by, each under a name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxmodels.checkpoints.draft_heads.mtp import announced_head
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.drafters import MTP, FirstLayers, Lookahead, PromptLookup, SuffixDecoding
from jaxmodels.decoding.early_exit import EarlyExit
from jaxmodels.decoding.jacobi import Jacobi
from jaxmodels.decoding.speculative import Speculative
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.model import Model

PLAIN = "autoregressive"
# Tokens of a proposal that are tried, of drafts that cost a model's time and of those that cost none.
MODEL_SIZES = (2, 4)
FREE_SIZES = (4, 8)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A strategy by name.

    Attributes:
        name: unique among contestants.
        strategy: how it decodes.
        keeps_text: whether it gives the text of sequential decoding, or draws from the same distribution.
    """

    name: str
    strategy: Strategy
    keeps_text: bool = True


def contestants(
    model: Model, base: Autoregressive, drafts: Mapping[str, Any] | None = None
) -> tuple[Contestant, ...]:
    """The usual strategies of `model`, sequential decoding first.

    They are those that need nothing else, drafts by the modules for further tokens that its checkpoint may
    hold, and by what is given.

    Args:
        model: one that predicts the next token.
        base: sampler, processors and the like, which all of them share.
        drafts: what may draft for it, by name: anything that `Speculative` takes.

    Raises:
        ValueError: `model` fills in masks instead.
    """
    if model.decoder.filling is not None:
        raise ValueError("this model fills in masks; strategies of models that predict the next token differ")
    found = [Contestant(name=PLAIN, strategy=base)]
    for kind in (_from_the_text, _by_iteration, _by_depth, _by_modules):
        found += kind(model, base)
    for name, draft in (drafts or {}).items():
        found += _by_draft(name, draft, base)
    return tuple(found)


def _speculative(base: Autoregressive, draft: Any, gamma: int | None = None) -> Speculative:
    return Speculative(
        draft=draft,
        gamma=gamma,
        sampler=base.sampler,
        processors=base.processors,
        top_logprobs=base.top_logprobs,
        prefill_window=base.prefill_window,
    )


def _from_the_text(model: Model, base: Autoregressive) -> Iterator[Contestant]:
    for size in FREE_SIZES:
        drafter = PromptLookup(size=size)
        yield Contestant(name=f"prompt lookup, {size}", strategy=_speculative(base, drafter))
    yield Contestant(name="suffix", strategy=_speculative(base, SuffixDecoding()))
    yield Contestant(name="lookahead", strategy=_speculative(base, Lookahead(window=4, levels=4, guesses=4)))


def _by_iteration(model: Model, base: Autoregressive) -> Iterator[Contestant]:
    for size in FREE_SIZES:
        jacobi = Jacobi(
            window=size + 1,
            sampler=base.sampler,
            processors=base.processors,
            top_logprobs=base.top_logprobs,
            prefill_window=base.prefill_window,
        )
        yield Contestant(name=f"Jacobi, {size}", strategy=jacobi)


def _by_depth(model: Model, base: Autoregressive) -> Iterator[Contestant]:
    depth = len(model.decoder.blocks)
    if depth > 1:
        layers = max(1, depth // 3)
        drafter = FirstLayers(layers=layers)
        yield Contestant(name=f"first layers, {layers}", strategy=_speculative(base, drafter))
        yield Contestant(
            name="early exit, 0.9", strategy=EarlyExit(threshold=0.9, decode=base), keeps_text=False
        )


def _by_modules(model: Model, base: Autoregressive) -> Iterator[Contestant]:
    if announced_head(model.decoder, model.metadata) is None:
        return
    for size in MODEL_SIZES:
        yield Contestant(name=f"own modules, {size}", strategy=_speculative(base, MTP(size=size)))


def _by_draft(name: str, draft: Any, base: Autoregressive) -> Iterator[Contestant]:
    """A drafter as it is; a model at some lengths."""
    if hasattr(draft, "settle"):
        yield Contestant(name=name, strategy=_speculative(base, draft))
        return
    for size in MODEL_SIZES:
        yield Contestant(name=f"{name}, {size}", strategy=_speculative(base, draft, size))
