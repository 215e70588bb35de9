"""DiffusionGemma, the language model (`model_type` "diffusion_gemma_text"): Gemma 4's layers in two passes.

transformers writes it inside of a model that also sees (`model_type` "diffusion_gemma"), whose language model
`text_part` finds.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.norm import RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.self_conditioning import SelfConditioning
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.denoising import Denoising
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, gemma4, mixture
from jaxmodels.models.scaled_block import SCALE

CANVAS, SOFTCAP = 256, 30.0

# All weights are stored as the canvas reading's; of the causal reading, only what it has for itself.
DECODER, ENCODER = "model.decoder.", "model.encoder.language_model."
CONDITIONING = f"{DECODER}self_conditioning"
WEIGHTS = (
    *gemma4.rows_under(DECODER, (row for row in gemma4.WEIGHTS if row.ours != "blocks/{i}/scale")),
    Weight("blocks/{i}/scale", f"{ENCODER}layers.{{i}}.layer_scalar"),
    Weight("denoising/blocks/{i}/scale", f"{DECODER}layers.{{i}}.layer_scalar"),
    Weight("denoising/self_conditioning/norm/scale", f"{CONDITIONING}.pre_norm.weight"),
    *(
        Weight(f"denoising/self_conditioning/ffn/w_{name}", f"{CONDITIONING}.{name}_proj.weight")
        for name in ("gate", "up", "down")
    ),
)


def read_config(reader: ConfigReader) -> Decoder:
    attentions, experts = gemma4.read_attentions(reader), gemma4.read_mixture(reader)
    norm = dense.read_norm(reader)
    # Otherwise the two passes would have weights of their own; biases they would have even so.
    reader.expect("tie_word_embeddings", None, True)
    reader.expect("attention_bias", None, False)
    config = dense.finish_decoder(
        reader, gemma4.mixture_blocks(norm, attentions, experts), norm, default_tie=True
    )
    conditioning = SelfConditioning(
        norm=norm, ffn=gemma4.read_dense(reader), post_norm=WeightlessRMSNorm(eps=norm.eps)
    )
    return replace(
        config,
        embed_scale=norm.dim**0.5,
        logit_softcap=reader.factor("final_logit_softcapping", SOFTCAP),
        filling=MaskFilling(mask_token=None),
        denoising=Denoising(
            canvas_length=reader.positive_or("canvas_length", CANVAS),
            self_conditioning=conditioning,
            own=(SCALE,),
        ),
    )


def write_config(config: Decoder) -> dict[str, Any]:
    norm, denoising = config.final_norm, config.denoising
    assert isinstance(norm, RMSNorm) and denoising is not None
    sizes = dense.write_sizes(config)
    del sizes["hidden_act"]
    return (
        sizes
        | gemma4.write_attentions(config)
        | gemma4.write_mixture(mixture.mixtures(config)[0])
        | {
            "rms_norm_eps": norm.eps,
            "final_logit_softcapping": config.logit_softcap,
            "canvas_length": denoising.canvas_length,
        }
    )


FAMILY = Family(
    model_type="diffusion_gemma_text",
    summary="DiffusionGemma, text",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
)
