"""Pipelines of diffusers that draw prompts, tiny, with random weights: text encoders, tokenizers and all."""

import diffusers
import numpy as np
import torch
from diffusers_modules import randomised
from prompt_encoders import clip, clip_tokenizer, t5, t5_tokenizer

# Pipelines report the steps of every call on standard error otherwise.
diffusers.utils.logging.set_verbosity_error()

HEADS = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 12}


def autoencoder(channels=4):
    """Of images twice as high and wide as its latents, without convolutions beside those."""
    return randomised(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            sample_size=16,
            latent_channels=channels,
            scaling_factor=1.5,
            shift_factor=0.06,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        seed=1,
    )


def sd3(with_t5=True):
    """Stable Diffusion 3 with canvases of 8 x 8."""
    words, t5_words = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        **HEADS,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        caption_projection_dim=24,
        joint_attention_dim=24,
        pos_embed_max_size=12,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=randomised(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(),
        text_encoder=clip(words, 12, projection=7),
        tokenizer=words,
        text_encoder_2=clip(words, 9, projection=5, seed=1, hidden_act="gelu"),
        tokenizer_2=words,
        text_encoder_3=t5(t5_words) if with_t5 else None,
        tokenizer_3=t5_words if with_t5 else None,
    )


def flux(guided=True):
    """Flux, which is told the strength of guidance or not."""
    words, t5_words = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        **HEADS,
        num_single_layers=2,
        in_channels=16,
        joint_attention_dim=24,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guided,
    )
    return diffusers.FluxPipeline(
        transformer=randomised(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=autoencoder(),
        text_encoder=clip(words),
        tokenizer=words,
        text_encoder_2=t5(t5_words),
        tokenizer_2=t5_words,
    )


def noise(batch, height, width, channels=4, seed=0):
    """f32[batch, height, width, channels]."""
    return np.random.default_rng(seed).standard_normal((batch, height, width, channels)).astype(np.float32)


def channels_first(array):
    """As diffusers has canvases."""
    return torch.tensor(np.moveaxis(array, -1, 1))
