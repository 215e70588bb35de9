"""Tiny models with random weights and the two verbs compiled, for tests of anything that runs a decoder."""

import dataclasses
import functools

import jax
import numpy as np

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.lightning import LightningMixer
from jaxmodels.layers.mamba_mixer import MambaMixer
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, ResidualRouter, ZeroComputationExperts
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.rglru import RGLRUMixer
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.short_conv import ShortConv
from jaxmodels.layers.spec import unflatten, walk
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.layers.sum_mixer import Branch, SumMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.shared_attention_block import SharedAttentionBlock

D_MODEL, VOCAB = 16, 29

# Compiles five times faster and runs a little slower: for programs of which only the numbers matter.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)


def random_params(spec, seed=0):
    """Every leaf away from its initial value: scales around 1, biases not 0, decays and steps spread out."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, param in walk(spec):
        noise, name = rng.standard_normal(param.shape), path.rsplit("/", 1)[-1]
        if path.endswith(("scale", "d_skip")):
            leaf = 1 + 0.2 * noise
        elif path.endswith("a_log"):
            leaf = (np.log(np.arange(1, param.shape[0] + 1)) + 0.2 * noise.T).T
        elif path.endswith("dt_bias"):
            leaf = noise - 1.0
        elif path.endswith("rate"):
            leaf = noise - 3.0
        elif path == "embed/weight" or len(param.shape) == 1 or name.startswith("conv_bias"):
            leaf = 0.5 * noise
        else:
            taps = name.startswith("conv_")
            contracted = param.shape[:1] if taps else param.shape[1:] if name == "w_o" else param.shape[-1:]
            leaf = noise / np.sqrt(np.prod(contracted))
        # Not by jnp.asarray, which compiles a program for each shape.
        leaves[path] = jax.device_put(leaf.astype(np.float32))
    return unflatten(leaves, spec)


ATTENTION = Attention(
    d_model=D_MODEL, num_heads=4, num_kv_heads=2, head_dim=6, rope=Rope(rotary_dim=6, theta=50.0)
)
SSD = SSDMixer(
    d_model=D_MODEL,
    num_heads=8,
    head_dim=4,
    state_dim=6,
    num_groups=2,
    chunk_size=4,
    norm=GatedRMSNorm(dim=32, num_groups=2),
)
MAMBA = MambaMixer(d_model=D_MODEL, d_inner=32, state_dim=5, dt_rank=3)
DELTA = GatedDeltaMixer(
    d_model=D_MODEL,
    num_heads=4,
    num_key_heads=2,
    head_dim=6,
    key_dim=5,
    chunk_size=4,
    norm=GatedRMSNorm(dim=6, order="norm_then_gate", axis=None),
)
LIGHTNING = LightningMixer(
    d_model=D_MODEL,
    num_heads=4,
    head_dim=6,
    slope_scale=0.7,
    chunk_size=4,
    norm=RMSNorm(dim=24, axis="ssm_inner"),
)
attention = functools.partial(dataclasses.replace, ATTENTION)
ssd = functools.partial(dataclasses.replace, SSD)
mamba = functools.partial(dataclasses.replace, MAMBA)
LATENT = LatentAttention(
    d_model=D_MODEL,
    num_heads=4,
    kv_rank=7,
    key_dim=5,
    rope_dim=4,
    value_dim=6,
    latent_norm=RMSNorm(dim=7),
    rope=Rope(rotary_dim=4, theta=50.0, style="interleaved"),
)
latent = functools.partial(dataclasses.replace, LATENT)
rglru = functools.partial(
    dataclasses.replace, RGLRUMixer(d_model=D_MODEL, d_inner=20, num_blocks=4, conv_width=3)
)
short_conv = functools.partial(dataclasses.replace, ShortConv(d_model=D_MODEL))
delta = functools.partial(dataclasses.replace, DELTA)
lightning = functools.partial(dataclasses.replace, LIGHTNING)


FFN = GatedMLP(d_model=D_MODEL, d_ff=24)
MIXTURE = MoE(
    router=ResidualRouter(d_model=D_MODEL, num_experts=6),
    experts=GatedExperts(num_experts=2, d_model=D_MODEL, d_ff=12),
    zero_computation=ZeroComputationExperts(d_model=D_MODEL),
    shared=GatedMLP(d_model=D_MODEL, d_ff=8),
)


def decoder(*mixers, tie_embeddings=False, ffn=FFN):
    """Attention with a feed-forward, state space layers alone."""
    norm = RMSNorm(dim=D_MODEL)
    blocks = tuple(
        Block(mixer_norm=norm, mixer=mixer)
        if isinstance(mixer, SSDMixer)
        else Block(mixer_norm=norm, mixer=mixer, ffn_norm=norm, ffn=ffn)
        for mixer in mixers
    )
    return Decoder(
        vocab_size=VOCAB, d_model=D_MODEL, blocks=blocks, final_norm=norm, tie_embeddings=tie_embeddings
    )


def sharing_decoder():
    """Two blocks behind one transformer layer, with adapters of their own, around one that has none."""
    norm = RMSNorm(dim=D_MODEL)
    sharing = SharedAttentionBlock(
        mixer_norm=norm,
        mixer=ssd(),
        attention_norm=RMSNorm(dim=2 * D_MODEL),
        attention=attention(input_dim=2 * D_MODEL, adapter_rank=3),
        ffn_norm=norm,
        ffn=GatedMLP(d_model=D_MODEL, d_ff=24, adapter_rank=2),
        shared=0,
    )
    blocks = (sharing, Block(mixer_norm=norm, mixer=ssd(num_groups=1)), sharing)
    return Decoder(vocab_size=VOCAB, d_model=D_MODEL, blocks=blocks, final_norm=norm)


ARCHITECTURES = {
    "attention": decoder(attention(), attention(qkv_bias=True, num_kv_heads=1)),
    "ssd": decoder(ssd(), ssd(num_groups=1, norm=None), tie_embeddings=True),
    "hybrid": decoder(ssd(), attention(num_kv_heads=4, sink_logits=True), ssd(conv_width=2)),
    "hybrid_moe": decoder(attention(), ssd(), attention(sliding_window=4), ffn=MIXTURE),
    "mamba": decoder(
        mamba(projection_bias=True, conv_width=3),
        mamba(conv_bias=False, dt_norm=RMSNorm(dim=3, axis=None), b_norm=WeightlessRMSNorm()),
    ),
    "latent": decoder(latent(query_rank=10, query_norm=RMSNorm(dim=10), bias=True), latent(rope=None)),
    "sharing": sharing_decoder(),
    "parallel": decoder(
        SumMixer(
            branches=(
                Branch(name="attention", mixer=attention(), in_scale=0.7),
                Branch(name="ssd", mixer=ssd(input_scales=(0.5, 1.5, 0.8, 1.2, 0.9)), out_scale=1.3),
            )
        ),
    ),
    "rglru": decoder(rglru(), attention(sliding_window=4), rglru(num_blocks=1, conv_width=2)),
    "short_conv": decoder(short_conv(), short_conv(conv_width=2, bias=True), attention()),
    "delta": decoder(delta(), delta(num_key_heads=4, decay_rank=3, gate_rank=2, conv_width=3)),
    "lightning": decoder(lightning(), attention(), lightning(slope_scale=0.1)),
    "sliding": decoder(attention(sliding_window=3), attention(sliding_window=6, softcap=5.0)),
    "ring": decoder(
        attention(sliding_window=3, cache=RingCache(longest_peek=4)),
        attention(sliding_window=5, sink_logits=True, cache=RingCache(longest_peek=4)),
    ),
}


def draw_tokens(batch, size, seed=0):
    return jax.device_put(np.random.default_rng(seed).integers(VOCAB, size=(batch, size)).astype(np.int32))


forward = quick_jit(Decoder.forward, static_argnums=0)
peek_scored = quick_jit(Decoder.peek, static_argnums=0, static_argnames=("depth", "taps"))
commit = quick_jit(Decoder.commit, static_argnums=0)


def peek(config, params, tokens, cache, **kwargs):
    """`Decoder.peek` with its logits alone: (logits, pending)."""
    scored, pending = peek_scored(config, params, tokens, cache, **kwargs)
    return scored.logits, pending
