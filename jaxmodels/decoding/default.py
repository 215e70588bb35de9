"""The strategy of a model where the caller names none."""

from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.masked import FinishedBlocks, FixedBlocks, MaskedDiffusion, StreamingDiffusion
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.layers.masks import Bidirectional, BlockCausal
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import LanguageModel

# Tokens of a block where the model has no length of its own: what the samplers of LLaDA and Fast-dLLM use.
BLOCK = 32


def default_strategy(config: LanguageModel, max_new_tokens: int) -> Strategy:
    """What the model was trained for.

    `Autoregressive`; of models that fill in tokens `StreamingDiffusion` for causal ones, and for others
    `MaskedDiffusion` in blocks of the model's own length, which are kept where that is exact.
    """
    if filling_of(config) is None:
        return Autoregressive()
    if isinstance(config.mask, BlockCausal):
        return MaskedDiffusion(blocks=FixedBlocks(config.mask.block), cache=FinishedBlocks())
    if isinstance(config.mask, Bidirectional):
        return MaskedDiffusion(blocks=FixedBlocks(min(BLOCK, max_new_tokens)))
    return StreamingDiffusion()
