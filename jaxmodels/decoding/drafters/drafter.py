"""What a drafter is: something that drafts the next tokens, and is told which of them were right.

A round of `Speculative` is three calls: `propose`, the model's `peek` at the draft tokens, `settle`. As with
a model, what was proposed is pending until it is settled, and a drafter that keeps a history settles a part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.processors.chain import Processor
from jaxmodels.decoding.samplers import Sampler
from jaxmodels.decoding.strategy import Output, Request
from jaxmodels.decoding.trees import Tree
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import LanguageModel, WindowReader

# What drafters can obey of a `DraftLength`, see `Obeying`.
LIMIT = frozenset({"limit"})
STOP = frozenset({"stop"})
HIDDEN = frozenset({"hidden"})
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a drafter is told of the generation. Built anew in each round; never crosses a jit boundary.

    Attributes:
        config, params: the model that verifies.
        request, output: the batch and what has been generated so far.
        token: i32[B], the newest token of each row: the last of the output, not yet part of any history.
        sampler, processors: how the model's tokens are chosen.
        keys: one random key per row. Number i of its folds belongs to drafted token i.
        prefill_window: the longest window in which prompts are fed.
        limit: i32[B], the most tokens of a draft that are verified, see `DraftLength`. A drafter may draft
            more, or end early.
        stop: ``stop(i, probability)``, whether nothing should be drafted behind drafted token number i (from
            0), to which the drafter gave `probability`, f32[B]; a drafter that knows none need not ask.
        judge: ``judge(before, i, hidden)`` of a length that is `Judging`, whose result `stop` is told in
            place of a probability; None for other lengths.
    """

    config: LanguageModel
    params: Params
    request: Request
    output: Output
    token: Int[Array, "B"]
    sampler: Sampler
    processors: tuple[Processor, ...]
    keys: Array
    prefill_window: int
    limit: Int[Array, "B"]
    stop: Callable[[Int[Array, ""] | int, Float[Array, "B"]], Bool[Array, "B"]]
    judge: Callable[[Float[Array, "B"], Int[Array, ""], Float[Array, "B D"]], Float[Array, "B"]] | None = None


@struct.dataclass
class Proposal:
    """Draft tokens behind the newest one.

    Attributes:
        tokens: i32[B, G].
        count: i32[B], how many leading ones are there; the rest is padding.
        tree: which follows which, None where each follows the one before. In a tree, tokens that are nearer
            to the newest one stand before those that are farther.
        distributions: f32[B, G, V], what each was drawn from, given its parent and the siblings before it.
            None where nothing was left to chance, so that each is certain.
        probabilities: f32[B, G], where there are no distributions: how sure the drafter was of each token,
            given those before it. None where it does not know.
    """

    tokens: jax.Array
    count: jax.Array
    tree: Tree | None = None
    distributions: jax.Array | None = None
    probabilities: jax.Array | None = None


@struct.dataclass
class Verdict:
    """What became of a proposal. The window is the newest token, at index 0, and the drafted ones.

    Attributes:
        path: i32[B, P], the window indices of the tokens that became history, in their order.
        count: i32[B], how many did: at least the newest one, or 0 in rows that are done.
        tokens: i32[B, P], what follows each token of the path; ``tokens[b, count[b] - 1]`` is the newest now.
        choices: i32[B, G+1], the model's most probable token behind each window token.
        taps: [B, G+1, D] each, the streams of the window that the drafter asked for by name.
    """

    path: jax.Array
    count: jax.Array
    tokens: jax.Array
    choices: jax.Array
    taps: dict[str, jax.Array]


@runtime_checkable
class DraftsOnCache(Protocol):
    """A drafter that drafts on the cache of the model itself.

    `propose_on` and `settle_on` stand for `Drafter.propose` and `Drafter.settle`.
    """

    @property
    def size(self) -> int: ...

    @property
    def taps(self) -> tuple[str, ...]: ...

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Any: ...

    def propose_on(self, state: Any, around: Round, cache: Any) -> tuple[Proposal, Any, WindowReader, Any]:
        """Draft tokens, what `settle_on` needs, what reads the window that verifies them, and on which cache;
        state and cache are spent."""

    def settle_on(self, pending: Any, around: Round, verdict: Verdict, cache: Any) -> tuple[Any, Any]:
        """The state and the model's cache, once the accepted tokens are history of the reader's."""


class Drafter(Protocol):
    """A way to draft. A pytree: sizes are static, numbers and parameters are data.

    Its state is a pytree whose type never changes.
    """

    @property
    def size(self) -> int:
        """G, the tokens of a proposal."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the model's streams that `begin` and `settle` are given, as `peek` knows them."""

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Any:
        """The state behind the prompts, of which `taps` hold the streams; the first token is chosen."""

    def propose(self, state: Any, around: Round) -> tuple[Proposal, Any]:
        """Draft tokens, and what `settle` needs; the state is spent. Rows that are done get none."""

    def settle(self, pending: Any, around: Round, verdict: Verdict) -> Any:
        """The state once the accepted tokens are history. `around` is that of the proposal."""


@runtime_checkable
class Varying(Protocol):
    """A `Drafter` that says whether its drafts are often shorter than `size`, or none, as of a search.

    Where they are, windows of several sizes pay. Drafters that do not say so draft `size` tokens.
    """

    @property
    def varies(self) -> bool: ...


@runtime_checkable
class Obeying(Protocol):
    """A `Drafter` that says what of a `DraftLength` it obeys, so that lengths which it cannot are refused.

    `LIMIT` where its draft is a chain of which any number of leading tokens can be verified; not where it is
    a tree, or where `settle` reads the verdict on everything that was drafted. `STOP` where `propose` asks
    `Round.stop`, `HIDDEN` where it also shows `Round.judge` the hidden states of the model that drafts.
    Drafters that do not say so are taken to obey `LIMIT` alone.
    """

    @property
    def obeys(self) -> frozenset[str]: ...


@runtime_checkable
class Choosy(Protocol):
    """A `Drafter` that does not draft for every model. It is asked before the model is shown anything."""

    def check_model(self, config: LanguageModel) -> None:
        """Raises ValueError where it cannot draft for this model."""
