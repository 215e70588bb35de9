"""What a model costs: parameters, bytes and FLOPs, computed from its configuration alone.

A multiply-add counts two FLOPs. The embedding lookup is free, the head is not; norms, activations and biases
are left out, being below a percent for models of any size.
"""

import functools
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax.typing import DTypeLike

from jaxmodels.checks import whole
from jaxmodels.layers.spec import Param, ParamTree, param_dtype, walk
from jaxmodels.models.decoder import Decoder

# Sums of up to this many terms are added one by one, and longer ones cut at most so many times.
_SHORT, _MOST_HALVINGS = 16, 500

# Two capacities far beyond any window, so that the difference is what one more token takes.
_CAPACITIES = (2**20, 2**21)


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Scalars by part of the model. Norms inside a mixer belong to it; a tied head has none of its own."""

    embedding: int
    mixers: int
    feed_forwards: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.mixers + self.feed_forwards + self.norms + self.head


@dataclass(frozen=True, kw_only=True)
class CostPerToken:
    """FLOPs of one token.

    Attributes:
        weights: of products with the weights.
        context: of attention to the tokens it sees, and of the steps of recurrent states.
    """

    weights: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.context


@dataclass(frozen=True, kw_only=True)
class CacheBytes:
    """Memory of the cache.

    Attributes:
        per_token: bytes for each token of capacity, per row.
        per_row: bytes of a row whatever the capacity.
    """

    per_token: int
    per_row: int


class Specified(Protocol):
    """A model of any kind, as far as its parameters go."""

    def spec(self) -> ParamTree:
        """Its parameters."""


class CostedModel(Specified, Protocol):
    """A language model that knows its cost. `Decoder` is one."""

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike) -> Any:
        """Empty histories."""

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included, without the head; 0 counts the
        weights alone.

        Raises ValueError where a layer does not know its cost.
        """

    @property
    def head_flops(self) -> int:
        """FLOPs of one token's logits."""

    def unread(self, rows: int) -> Iterable[Param]:
        """What a step of `rows` rows leaves unread at least, as parameters of that shape."""


def parameter_counts(config: Decoder) -> ParameterCounts:
    """The number of parameters of each part."""
    counts: Counter[str] = Counter()
    for path, param in walk(config.spec()):
        counts[_part(path)] += math.prod(param.shape)
    return ParameterCounts(**{name: counts[name] for name in ParameterCounts.__dataclass_fields__})


def weight_bytes(config: Specified, dtype: DTypeLike) -> int:
    """Bytes of all parameters in `dtype`, those that pin another one in theirs."""
    return sum(_nbytes(param, dtype) for _, param in walk(config.spec()))


def weight_bytes_per_step(config: CostedModel, dtype: DTypeLike, rows: int = 1) -> int:
    """Bytes of parameters that one decoding step of `rows` rows reads at most.

    All but an embedding that is not the head, and experts that are more than the rows can choose.
    """
    return weight_bytes(config, dtype) - sum(_nbytes(param, dtype) for param in config.unread(rows))


def cache_bytes(config: CostedModel, dtype: DTypeLike) -> CacheBytes:
    """Bytes of the cache that `config.init_cache` makes in `dtype`."""
    small, large = (_cache_size(config, capacity, dtype) for capacity in _CAPACITIES)
    per_token = (large - small) // (_CAPACITIES[1] - _CAPACITIES[0])
    return CacheBytes(per_token=per_token, per_row=small - per_token * _CAPACITIES[0])


def flops_per_token(config: CostedModel, context: int) -> CostPerToken:
    """FLOPs of one decoded token that sees `context` tokens, itself included.

    Raises:
        ValueError: `context` is no whole number from 1, the token itself, to 2 ** 31 - 1, or a layer does not
            know its cost.
    """
    context = whole("context", context, low=1)
    weights = config.flops_per_token(0)
    return CostPerToken(
        weights=weights + config.head_flops, context=config.flops_per_token(context) - weights
    )


def prefill_flops(config: CostedModel, length: int) -> int:
    """FLOPs of settling a prompt of `length` tokens: each sees those before it; the head runs for the last.

    Recurrent layers count as steps: the chunked form does about as much work in larger pieces. The time that
    this takes does not grow with `length`; see `_sum_to`.

    Raises:
        ValueError: `length` is no whole number from 1 to 2 ** 31 - 1, or a layer does not know its cost.
    """
    return _sum_to(whole("length", length, low=1), config.flops_per_token) + config.head_flops


def _sum_to(length: int, cost: Callable[[int], int]) -> int:
    """``cost(1) + ... + cost(length)`` for a cost that is linear between few corners, as what a window or a
    budget bounds is.

    Intervals are halved, the longest first, until each is linear or so short that its terms are added. A cost
    in many small steps, as of a cache in pages, uses up `_MOST_HALVINGS` and is then taken as linear within
    each of the short intervals that are left.
    """
    total, halvings = 0, 0
    waiting = [(-length, 1)]  # a heap of minus the number of terms, and the first of them
    while waiting:
        count, low = -waiting[0][0], waiting[0][1]
        heapq.heappop(waiting)
        high = low + count - 1
        if count <= _SHORT:
            total += sum(cost(seen) for seen in range(low, high + 1))
        elif halvings == _MOST_HALVINGS or _is_linear(cost, low, high):
            total += count * (cost(low) + cost(high)) // 2
        else:
            halvings += 1
            for first, last in ((low, low + count // 2 - 1), (low + count // 2, high)):
                heapq.heappush(waiting, (first - last - 1, first))
    return total


def _is_linear(cost: Callable[[int], int], low: int, high: int) -> bool:
    """Whether a cost lies on the line between two lengths at five others, but for rounding."""
    first, rise, span = cost(low), cost(high) - cost(low), high - low
    between = (low + 1, low + span // 3, low + span // 2, low + 5 * span // 7, high - 1)
    return all(abs((cost(at) - first) * span - rise * (at - low)) <= span for at in between)


# What stands around the blocks, norms aside.
_ENDS = {
    "embed": "embedding",
    "segments": "embedding",
    "positions": "embedding",
    "head": "head",
    "head_transform": "head",
}


def _part(path: str) -> str:
    first, *rest = path.split("/")
    if first in _ENDS:
        return _ENDS[first]
    return {"mixer": "mixers", "ffn": "feed_forwards"}.get(rest[1] if len(rest) > 1 else "", "norms")


def _cache_size(config: CostedModel, capacity: int, dtype: DTypeLike) -> int:
    cache = jax.eval_shape(functools.partial(config.init_cache, 1, capacity, dtype))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


def _nbytes(param: Param, dtype: DTypeLike) -> int:
    return math.prod(param.shape) * param_dtype(param, dtype).itemsize
