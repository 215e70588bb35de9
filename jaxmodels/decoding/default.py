"""The strategy of a model where the caller names none."""

from typing import TYPE_CHECKING

from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.samplers import Sample
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.layers.masks import Bidirectional, BlockCausal
from jaxmodels.models.denoising import Denoising, denoising_of, reads_canvases
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import LanguageModel

# Masked generation is imported where it is needed: models that predict the next token start without it.
if TYPE_CHECKING:
    from jaxmodels.decoding.masked import MaskedDiffusion

# Tokens of a block where the model has no length of its own: what the samplers of LLaDA and Fast-dLLM use.
BLOCK = 32
CANVAS_STEPS = 48


def canvas_strategy(denoising: Denoising) -> "MaskedDiffusion":
    """How canvases are refined where a checkpoint says nothing else: by transformers' defaults."""
    from jaxmodels.decoding.masked import FixedBlocks, MaskedDiffusion, ReadCausally
    from jaxmodels.decoding.masked.remask import Renoise
    from jaxmodels.decoding.masked.stop import StableAndConfident
    from jaxmodels.decoding.masked.unmask import EntropyBounded, Tempered, Towards

    length = denoising.canvas_length
    return MaskedDiffusion(
        blocks=FixedBlocks(length),
        steps=min(CANVAS_STEPS, length),
        unmask=Tempered(EntropyBounded(0.1), Towards(0.8, 0.4)),
        remask=Renoise(),
        cache=ReadCausally(),
        stop=StableAndConfident(),
        sampler=Sample(),
    )


def default_strategy(config: LanguageModel, max_new_tokens: int) -> Strategy:
    """What the model was trained for.

    `Autoregressive`; of models that fill in tokens `StreamingDiffusion` for causal ones, and for others
    `MaskedDiffusion` in blocks of the model's own length, which are kept where that is exact; canvases are
    refined by `canvas_strategy`.
    """
    if filling_of(config) is None:
        return Autoregressive()
    from jaxmodels.decoding.masked import FinishedBlocks, FixedBlocks, MaskedDiffusion, StreamingDiffusion

    if reads_canvases(config):
        return canvas_strategy(denoising_of(config))
    if isinstance(config.mask, BlockCausal):
        return MaskedDiffusion(blocks=FixedBlocks(config.mask.block), cache=FinishedBlocks())
    if isinstance(config.mask, Bidirectional):
        return MaskedDiffusion(blocks=FixedBlocks(min(BLOCK, max_new_tokens)))
    return StreamingDiffusion()
