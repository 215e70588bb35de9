"""What a model costs: parameters, bytes and FLOPs, computed from its configuration alone.

A multiply-add counts two FLOPs. The embedding lookup is free, the head is not; norms, activations and biases
are left out, being below a percent for models of any size.
"""

import functools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
from jax.typing import DTypeLike

from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.spec import param_dtype, walk
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.decoder import Decoder

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
    """FLOPs of one token. weights: multiplying with the weights. context: attention to the tokens it sees,
    and the steps of recurrent states."""

    weights: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.context


@dataclass(frozen=True, kw_only=True)
class CacheBytes:
    """Memory of the cache. per_token: for each token of capacity, per row. per_row: whatever the capacity."""

    per_token: int
    per_row: int


@runtime_checkable
class Costed(Protocol):
    """A layer that knows its cost."""

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        ...


def parameter_counts(config: Decoder) -> ParameterCounts:
    """The number of parameters of each part."""
    counts: Counter[str] = Counter()
    for path, param in walk(config.spec()):
        counts[_part(path)] += math.prod(param.shape)
    return ParameterCounts(**{name: counts[name] for name in ParameterCounts.__dataclass_fields__})


def weight_bytes(config: Decoder, dtype: DTypeLike) -> int:
    """Bytes of all parameters in `dtype`, those that pin another one in theirs."""
    return sum(math.prod(p.shape) * param_dtype(p, dtype).itemsize for _, p in walk(config.spec()))


def weight_bytes_per_step(config: Decoder, dtype: DTypeLike, rows: int = 1) -> int:
    """Bytes of parameters that one decoding step of `rows` rows reads at most.

    All but an embedding that is not the head, and experts that are more than the rows can choose.
    """
    total = weight_bytes(config, dtype)
    for block in config.blocks:
        if isinstance(block.ffn, MoE):
            count = block.ffn.experts.num_experts
            idle = count - min(rows * block.ffn.router.top_k, count)
            stacks = [param for _, param in walk(block.ffn.experts.spec())]
            total -= sum(math.prod(p.shape) // count * param_dtype(p, dtype).itemsize for p in stacks) * idle
    if config.tie_embeddings:
        return total
    embedding = dict(walk(config.spec()))["embed/weight"]
    return total - math.prod(embedding.shape) * param_dtype(embedding, dtype).itemsize


def cache_bytes(config: Decoder, dtype: DTypeLike) -> CacheBytes:
    """Bytes of the cache that `config.init_cache` makes in `dtype`."""
    small, large = (_cache_size(config, capacity, dtype) for capacity in _CAPACITIES)
    per_token = (large - small) // (_CAPACITIES[1] - _CAPACITIES[0])
    return CacheBytes(per_token=per_token, per_row=small - per_token * _CAPACITIES[0])


def flops_per_token(config: Decoder, context: int) -> CostPerToken:
    """FLOPs of one decoded token that sees `context` tokens, itself included.

    Raises:
        ValueError: `context` is below 1, or a layer does not know its cost.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1, the token itself; got {context}")
    weights, total = (
        sum(_block_flops(block, seen) * times for block, times in Counter(config.blocks).items())
        for seen in (0, context)
    )
    return CostPerToken(weights=weights + _head_flops(config), context=total - weights)


def prefill_flops(config: Decoder, length: int) -> int:
    """FLOPs of settling a prompt of `length` tokens: each sees those before it; the head runs for the last.

    Recurrent layers count as steps: the chunked form does about as much work in larger pieces.

    Raises:
        ValueError: `length` is below 1, or a layer does not know its cost.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    blocks = sum(
        times * sum(_block_flops(block, seen) for seen in range(1, length + 1))
        for block, times in Counter(config.blocks).items()
    )
    return blocks + _head_flops(config)


def _part(path: str) -> str:
    first, *rest = path.split("/")
    if first in ("embed", "head"):
        return {"embed": "embedding", "head": "head"}[first]
    return {"mixer": "mixers", "ffn": "feed_forwards"}.get(rest[1] if len(rest) > 1 else "", "norms")


def _cache_size(config: Decoder, capacity: int, dtype: DTypeLike) -> int:
    cache = jax.eval_shape(functools.partial(config.init_cache, 1, capacity, dtype))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


def _head_flops(config: Decoder) -> int:
    return 2 * config.vocab_size * config.d_model


def _block_flops(block: DecoderBlock, context: int) -> int:
    if isinstance(block, Costed):
        return block.flops_per_token(context)
    layers = [layer for layer in (block.mixer, block.ffn) if layer is not None]
    return sum(_costed(layer).flops_per_token(context) for layer in layers)


def _costed(layer: object) -> Costed:
    if not isinstance(layer, Costed):
        raise ValueError(f"{type(layer).__name__} does not know its cost: it has no flops_per_token(context)")
    return layer
