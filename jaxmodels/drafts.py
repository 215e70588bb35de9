"""What a strategy names, drafts and policies of depth: loaded, and checked against the model they are for."""

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
from jaxmodels.decoding.choosing import Arbitrage
from jaxmodels.decoding.drafters.mtp import MTP
from jaxmodels.decoding.speculative import Draft, Speculative
from jaxmodels.decoding.speculative_exit import SpeculativeExit
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.layers.spec import check_params
from jaxmodels.models.language_model import LanguageModel

if TYPE_CHECKING:
    from jaxmodels.model import Model

Policed = TypeVar("Policed", AdaptiveDepth, SpeculativeExit)


def with_draft(strategy: Strategy, target: LanguageModel) -> Strategy:
    """The strategy, its draft loaded where that is a name of a model or a draft head; so its policy of depth.

    Raises ValueError where the draft's parameters are not those of its configuration, or a head or policy is
    for another target.
    """
    if isinstance(strategy, SpeculativeExit):
        given: Any = strategy.draft
        return _with_policy(replace(strategy, draft=_ready_draft(given)), target)
    if isinstance(strategy, AdaptiveDepth):
        return _with_policy(strategy, target)
    if isinstance(strategy, Arbitrage):
        model: Any = strategy.draft
        return replace(strategy, draft=_ready_draft(model))
    if not isinstance(strategy, Speculative):
        return strategy
    drafter: Any = strategy.draft
    if isinstance(drafter, str):
        from jaxmodels.checkpoints.draft_heads import is_drafter

        if is_drafter(drafter):
            head = _load_head(drafter, target, strategy.gamma, _files_of(drafter))
            return replace(strategy, draft=head, gamma=None)
    ready = _ready_draft(drafter) if isinstance(drafter, str | Draft) else _with_ready_drafts(drafter)
    return replace(strategy, draft=ready)


def with_modules(strategy: Strategy, model: "Model") -> Strategy:
    """The strategy, the model's own modules in place where it drafts with them."""
    if not isinstance(strategy, Speculative):
        return strategy
    draft: Any = strategy.draft
    if not isinstance(draft, MTP) or draft.head is not None:
        return strategy
    head, params = model.mtp
    return replace(strategy, draft=replace(draft, head=head, params=params))


def _with_ready_drafts(drafter: Any) -> Any:
    """A drafter, its models loaded where they are names."""
    if isinstance(getattr(drafter, "draft", None), str | Draft):
        return replace(drafter, draft=_ready_draft(drafter.draft))
    if isinstance(getattr(drafter, "drafts", None), tuple):
        return replace(drafter, drafts=tuple(map(_ready_draft, drafter.drafts)))
    return drafter


def _files_of(name: str) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of the files of a model or head: what is loaded again once they have changed."""
    from jaxmodels.checkpoints.hub import resolve

    place = resolve(name)
    files = [place] if place.is_file() else sorted(place.iterdir())
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def _with_policy(strategy: Policed, target: LanguageModel) -> Policed:
    name: Any = strategy.depth
    if not isinstance(name, str):
        return strategy
    return replace(strategy, depth=_load_policy(name, target, _files_of(name)))


@functools.lru_cache(maxsize=4)
def _load_policy(name: str, target: LanguageModel, files: tuple[Any, ...]) -> Any:
    from jaxmodels.checkpoints.depth_policies import load_depth

    return load_depth(name, target)


@functools.lru_cache(maxsize=4)
def _load_head(name: str, target: LanguageModel, size: int | None, files: tuple[Any, ...]) -> Any:
    from jaxmodels.checkpoints.draft_heads import load_drafter

    drafter = load_drafter(name, target)
    if size is None:
        return drafter
    try:
        return replace(drafter, size=size)
    except ValueError as error:
        raise ValueError(f"gamma={size}, the size of the drafter {name!r}: {error}") from error


def _ready_draft(draft: str | Draft) -> Draft:
    if isinstance(draft, str):
        draft = _load_draft(draft, _files_of(draft))
    try:
        check_params(draft.config.spec(), draft.params)
    except ValueError as error:
        raise ValueError(f"draft: {error}") from error
    return draft


@functools.lru_cache(maxsize=4)
def _load_draft(name: str, files: tuple[Any, ...]) -> Draft:
    from jaxmodels.io import load

    model = load(name)
    return Draft(model.config, model.params)
