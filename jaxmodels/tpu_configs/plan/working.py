"""Memory that each program takes beside parameters and cache.

An estimate: it is known once they compile.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.spec import Param, walk
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.tpu_configs.plan.spread import Spread

MIB = 2**20
# Machine code of a mixer or feed-forward, as libtpu 0.0.42 makes it: a part that is always there, and one for
# each million weights of its products on one device, whose tiles it takes by turns. That of a prefill grows
# about as the square root of the tokens read at once.
STEP, STEP_BY_WEIGHTS = 0.24 * MIB, 0.018 * MIB
PREFILL, PREFILL_BY_WEIGHTS, AT_TOKENS = 2.6 * MIB, 0.06 * MIB, 2048
# Arrays [tokens, inner width] in float32 that the chunked form of a state space layer has at once: its input,
# what the tokens of a chunk give one another, what they read of the state, and the sum of both in two orders.
IN_CHUNKS = 5
# Memory on the chip itself. Caches that it holds for a while are written back to a place of their own.
ON_CHIP = 128 * MIB


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What one program takes on one device beside parameters and cache.

    Attributes:
        working: bytes of arrays that come and go.
        code: bytes of the program itself.
    """

    working: int
    code: int


def of_step(spread: Spread, tokens: int) -> Beside:
    """Beside a step that scores `tokens` tokens of each row."""
    parts = _parts(spread)
    code = sum(times * (STEP + STEP_BY_WEIGHTS * weights) for weights, times in parts.items())
    return Beside(working=_working(spread, tokens), code=round(code))


def of_prefill(spread: Spread, tokens: int) -> Beside:
    """Beside a prefill in windows of `tokens` tokens of each row."""
    parts, growth = _parts(spread), math.sqrt(tokens / AT_TOKENS)
    code = sum(times * (PREFILL + PREFILL_BY_WEIGHTS * weights) for weights, times in parts.items())
    return Beside(working=_working(spread, tokens), code=round(growth * code))


def of_canvas(denoiser: Denoiser, rows: int, tokens: int, tensor: int) -> Beside:
    """Beside a denoiser's loop over `rows` canvases, each of `tokens` tokens, with those of its text."""
    blocks = Counter(denoiser.named_blocks().values())
    growth = math.sqrt(tokens / AT_TOKENS)
    code = sum(
        times * (2 * PREFILL + PREFILL_BY_WEIGHTS * _weights(block) / tensor / 1e6)
        for block, times in blocks.items()
    )
    width = 4 * denoiser.projections.d_model + 2 * max(map(_widest, blocks)) / tensor
    return Beside(working=round(rows * tokens * width), code=round(growth * code))


def _working(spread: Spread, tokens: int) -> int:
    """Bytes of activations while a window goes through a layer: the residual stream and what is added to it,
    in bfloat16, and what the widest layer has at once; of the float32 logits of one token of each row; of
    what is laid out anew; and of caches that are written back."""
    config, rows = spread.config, max(1.0, spread.rows)
    tensor = spread.sizes["tensor"]
    inside = max((_inside(block, spread) for block in set(config.blocks)), default=0.0)
    activations = rows * (tokens * (4 * config.d_model + inside) + 4 * config.vocab_size / tensor)
    return round(activations) + spread.copied + written_back(spread.cache)


def written_back(cache: int) -> int:
    """Bytes of a deep model's caches that were brought onto the chip and then have two places in its memory.

    Those of few layers stay on the chip, and none is brought there whole that does not fit.
    """
    return min(cache, ON_CHIP)


def _inside(block: DecoderBlock, spread: Spread) -> float:
    """Bytes for each token that a block's layers have at once."""
    tensor, mixer, ffn = spread.sizes["tensor"], block.mixer, block.ffn
    sizes = [2 * _widest(block) / tensor]
    if isinstance(mixer, SSDMixer):
        sizes.append(4 * IN_CHUNKS * mixer.d_inner / tensor)
    if isinstance(ffn, MoE):  # each token once for every expert that it is sent to
        sizes.append(2 * ffn.router.top_k * spread.config.d_model)
    return max(sizes)


def _widest(block: Any) -> int:
    """Features of the widest projection inside a block."""
    specs = (param for _, param in walk(block.spec()))
    return max((max(param.shape) for param in specs if "embed" in param.axes), default=0)


def _parts(spread: Spread) -> Counter[float]:
    """Mixers and feed-forwards of all blocks, by millions of weights of their products on one device."""
    found: Counter[float] = Counter()
    for block, times in Counter(spread.config.blocks).items():
        for layer in (block.mixer, block.ffn):
            if layer is not None:
                found[_weights(layer) / spread.sizes["tensor"] / 1e6] += times
    return found


def _weights(layer: Any) -> int:
    return sum(math.prod(param.shape) for _, param in walk(layer.spec()) if _in_a_product(param))


def _in_a_product(param: Param) -> bool:
    """Whether the compiler unrolls the product with a parameter; one with a stack of experts is a loop."""
    return bool(param.contracted) and "experts" not in param.axes
