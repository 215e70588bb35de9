"""Parts of a trained model that are constant by now, replaced by simpler ones with the same outputs."""

from dataclasses import replace

from jaxmodels.layers.moe import HyperRouter, MoE
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder


def fold_routers(config: Decoder, params: Params) -> tuple[Decoder, Params]:
    """The model with every router that a hypernetwork makes as a plain one: what checkpoints can hold."""
    blocks, folded = list(config.blocks), dict(params["blocks"])
    for i, block in enumerate(config.blocks):
        if isinstance(block.ffn, MoE) and isinstance(block.ffn.router, HyperRouter):
            inside = folded[str(i)]
            router, weights = block.ffn.router.fold(inside["ffn"]["router"])
            blocks[i] = replace(block, ffn=replace(block.ffn, router=router))  # type: ignore[type-var]
            folded[str(i)] = {**inside, "ffn": {**inside["ffn"], "router": weights}}
    return replace(config, blocks=tuple(blocks)), {**params, "blocks": folded}
