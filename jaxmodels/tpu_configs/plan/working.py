"""Memory that programs take beside parameters and cache: an estimate, for it is known once they compile."""

import math

from jaxmodels.layers.spec import walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.plan.spread import Spread

MIB = 2**20
# Machine code of a mixer or feed-forward, as libtpu 0.0.42 makes it: of a decoding step, and of a prefill,
# where it grows about as the square root of the tokens read at once (1.5 MiB for 512 and 3 for 2,048).
CODE_OF_A_STEP, CODE_OF_A_PREFILL, AT_TOKENS = 0.4 * MIB, 1.5 * MIB, 512
# Arrays in flight at once, in the prefill of a deep model: of the widest projection, and of the stream.
WIDE, NARROW = 2, 4


def working_bytes(spread: Spread, tokens: int) -> int:
    """Bytes of activations on one device while a window of `tokens` tokens of each row goes through a layer,
    in bfloat16, of the float32 logits of one token of each row, and of copied experts."""
    config, tensor = spread.config, spread.sizes["tensor"]
    rows = max(1.0, spread.rows)
    width = WIDE * _widest(config) / tensor + NARROW * config.d_model
    return round(rows * (2 * tokens * width + 4 * config.vocab_size / tensor)) + spread.copied


def code_bytes(config: Decoder, tokens: int) -> int:
    """Bytes of the programs for decoding and for a prefill in windows of `tokens` tokens: layers are compiled
    one by one."""
    parts = sum((block.mixer is not None) + (block.ffn is not None) for block in config.blocks)
    return round(parts * (CODE_OF_A_STEP + CODE_OF_A_PREFILL * math.sqrt(tokens / AT_TOKENS)))


def _widest(config: Decoder) -> int:
    """Features of the widest projection inside a block."""
    specs = (spec for block in set(config.blocks) for _, spec in walk(block.spec()))
    return max((max(param.shape) for param in specs if "embed" in param.axes), default=config.d_model)
