"""Tiny models whose heads and widths eight devices divide: decoders, one for each kind of mixer and
feed-forward, and models of images, one of each family."""

import dataclasses

from denoiser_models import CONFIGS
from flow_models import flow
from model_helpers import (
    D_MODEL,
    attention,
    decoder,
    delta,
    latent,
    lightning,
    mamba,
    rglru,
    short_conv,
    ssd,
)
from next_scale_models import MVAR, VAR

from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import MLP, GatedMLP
from jaxmodels.layers.moe import (
    Capacity,
    ClampedGatedExperts,
    Dense,
    GatedExperts,
    MoE,
    PlainExperts,
    ResidualRouter,
    SigmoidTopK,
    SoftmaxTopK,
    VersatileFFN,
    ZeroComputationExperts,
)
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.sum_mixer import Branch, SumMixer
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS

HEADS, VOCAB = 8, 32
LATENT_NORM = RMSNorm(dim=7, axis=None)
FFN = GatedMLP(d_model=D_MODEL, d_ff=32)


def wide_latent(**kwargs):
    return latent(num_heads=HEADS, latent_norm=LATENT_NORM, **kwargs)


def wide_attention(**kwargs):
    return attention(**{"num_heads": HEADS, "num_kv_heads": HEADS} | kwargs)


def wide(config: Decoder) -> Decoder:
    return dataclasses.replace(config, vocab_size=VOCAB)


def moe(experts=GatedExperts, dispatch=None, **kwargs):
    """Eight experts of which each token gets three."""
    chosen = {} if dispatch is None else {"dispatch": dispatch}
    return MoE(
        router=SoftmaxTopK(d_model=D_MODEL, num_experts=8, top_k=3),
        experts=experts(num_experts=8, d_model=D_MODEL, d_ff=16, **kwargs),
        **chosen,
    )


MIXERS = {
    "attention": wide_attention(qkv_bias=True, out_bias=True, query_norm=RMSNorm(dim=6, axis=None)),
    "grouped_attention": wide_attention(num_heads=16, sink_logits=True, output_gate=True),
    "few_kv_heads": wide_attention(num_kv_heads=2),
    "one_kv_head": wide_attention(num_kv_heads=1, softcap=5.0),
    "norm_across_heads": wide_attention(
        num_kv_heads=4, norm_across_heads=True, query_norm=RMSNorm(dim=48), key_norm=RMSNorm(dim=24)
    ),
    "ring": wide_attention(sliding_window=3, cache=RingCache(longest_peek=64)),
    "latent": wide_latent(),
    "latent_queries": wide_latent(query_rank=10, query_norm=RMSNorm(dim=10, axis=None), bias=True),
    "ssd": ssd(num_groups=8, norm=GatedRMSNorm(dim=32, num_groups=8)),
    "ssd_one_group": ssd(num_groups=1, norm=GatedRMSNorm(dim=32), projection_bias=True),
    "ssd_two_groups": ssd(num_groups=2),
    "mamba": mamba(projection_bias=True),
    "delta": delta(num_heads=HEADS, num_key_heads=HEADS),
    "delta_few_key_heads": delta(num_heads=HEADS, num_key_heads=2),
    "kimi_delta": delta(num_heads=HEADS, num_key_heads=HEADS, decay_rank=3, gate_rank=2),
    "rglru": rglru(d_inner=32, num_blocks=8),
    "short_conv": short_conv(bias=True),
    "lightning": lightning(num_heads=HEADS, norm=RMSNorm(dim=48, axis="ssm_inner")),
    "sum": SumMixer(
        branches=(
            Branch(name="attention", mixer=wide_attention(), in_scale=0.7),
            Branch(name="ssd", mixer=ssd(), out_scale=1.3),
        )
    ),
}

FEED_FORWARDS = {
    "gated_bias": GatedMLP(d_model=D_MODEL, d_ff=32, bias=True, adapter_rank=2),
    "plain": MLP(d_model=D_MODEL, d_ff=32),
    "experts": moe(),
    "plain_experts_bias": moe(PlainExperts, bias=True),
    "clamped_experts": moe(ClampedGatedExperts),
    "dense_experts": moe(dispatch=Dense()),
    "capacity": moe(dispatch=Capacity(4.0)),
    "shared_expert": MoE(
        router=SigmoidTopK(d_model=D_MODEL, num_experts=8, top_k=2),
        experts=GatedExperts(num_experts=8, d_model=D_MODEL, d_ff=16),
        shared=GatedMLP(d_model=D_MODEL, d_ff=16),
        shared_gate=True,
    ),
    "zero_computation": MoE(
        router=ResidualRouter(d_model=D_MODEL, num_experts=12),
        experts=GatedExperts(num_experts=8, d_model=D_MODEL, d_ff=16),
        zero_computation=ZeroComputationExperts(d_model=D_MODEL),
    ),
    "versatile": VersatileFFN(d_model=D_MODEL, d_ff=32, num_experts=4, top_k=2, max_depth=2),
}

DECODERS = {
    **{f"mixer-{name}": wide(decoder(mixer, ffn=FFN)) for name, mixer in MIXERS.items()},
    **{f"ffn-{name}": wide(decoder(wide_attention(), ffn=ffn)) for name, ffn in FEED_FORWARDS.items()},
}

# Several kinds of mixers or feed-forwards in one model.
MIXED = {
    "transformer": wide(
        decoder(*(MIXERS[name] for name in ("few_kv_heads", "norm_across_heads", "latent", "ring")), ffn=FFN)
    ),
    "recurrent": wide(
        decoder(
            *(
                MIXERS[name]
                for name in (
                    "ssd",
                    "ssd_two_groups",
                    "mamba",
                    "delta_few_key_heads",
                    "rglru",
                    "short_conv",
                    "lightning",
                )
            ),
            ffn=FFN,
        )
    ),
    "experts": wide(
        decoder(wide_attention(), wide_attention(num_kv_heads=2), ffn=moe(PlainExperts, bias=True))
    ),
    "hybrid": wide(decoder(MIXERS["ssd_one_group"], wide_attention(), ffn=FFN)),
}

# A model that fills in tokens and sees both ways.
FILLING = dataclasses.replace(
    wide(decoder(wide_attention(), wide_attention(num_kv_heads=2), ffn=FFN)),
    mask=BIDIRECTIONAL,
    filling=MaskFilling(mask_token=VOCAB - 1),
)

# What makes the models of `denoiser_models` wide enough, by their own names of it; and those of which other
# widths are needed, for a gated feed-forward is 8/3 as wide as its model, and PixArt cuts the width in three.
WIDTHS = {
    "num_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "cross_attention_head_dim": 8,
    "cross_attention_dim": 64,
    "caption_projection_dim": 64,
    "hidden_size": 64,
    "num_heads": 8,
    "num_groups": 8,
    "n_heads": 8,
    "embed_dim": 64,
}
OWN_WIDTHS = {
    "DDT": {"hidden_size": 96},
    "PixArtTransformer2DModel": {"attention_head_dim": 12, "cross_attention_dim": 96},
    "ZImageTransformer2DModel": {"dim": 96, "axes_dims": [4, 4, 4]},
}


def _wide(values):
    return values | {key: size for key, size in WIDTHS.items() if key in values}


WIDE_DENOISERS = {
    name: DENOISERS.read({"_class_name": name} | _wide(values) | OWN_WIDTHS.get(name, {}))
    for name, values in CONFIGS.items()
}
WIDE_FLOW, FLOW_PARAMS = flow(channels=64)
# Mamba-2 has heads of 64 in M-VAR.
WIDE_SCALES = {
    "VAR": NEXT_SCALE_MODELS.read(_wide(VAR) | {"V": 16}),
    "MVAR": NEXT_SCALE_MODELS.read(_wide(MVAR) | {"V": 16, "embed_dim": 256}),
}
