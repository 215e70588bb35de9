"""Pipelines of diffusers with several text encoders, tiny, with random weights, tokenizers and all."""

import diffusers
import torch
import transformers
from diffusers_modules import randomised
from diffusion_pipelines import autoencoder
from prompt_encoders import clip, clip_tokenizer, t5, t5_tokenizer

HEADS = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2}
PROMPTS = ["A cat on the mat", "Zürich, in the style of a naïve painter"]


def shifted_autoencoder():
    """As SD3 and Flux have it: latents are shifted, and no convolutions stand beside them."""
    return autoencoder(scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)


def sd3(*, with_t5):
    """Stable Diffusion 3 with canvases of 8 x 8."""
    words, t5_words = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        **HEADS,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        caption_projection_dim=24,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        pos_embed_max_size=12,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=randomised(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=shifted_autoencoder(),
        text_encoder=clip(words, 12, projection=7),
        tokenizer=words,
        text_encoder_2=clip(words, 9, projection=5, seed=1, hidden_act="gelu"),
        tokenizer_2=words,
        text_encoder_3=t5(t5_words) if with_t5 else None,
        tokenizer_3=t5_words if with_t5 else None,
    )


def flux(*, guided):
    """Flux; guided: told the strength of guidance, and sampled with a shift by the number of patches."""
    words, t5_words = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        **HEADS,
        num_single_layers=2,
        in_channels=16,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guided,
    )
    return diffusers.FluxPipeline(
        transformer=randomised(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=shifted_autoencoder(),
        text_encoder=clip(words),
        tokenizer=words,
        text_encoder_2=t5(t5_words),
        tokenizer_2=t5_words,
    )


def hidream():
    """HiDream, whose CLIPs read 128 tokens whatever their tokenizer says."""
    words, t5_words, llama_words = clip_tokenizer(), t5_tokenizer(), t5_tokenizer(24)
    transformer = diffusers.HiDreamImageTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        caption_channels=(24, 12),
        text_emb_dim=12,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 2),
        llama_layers=(0, 1),
        force_inference_output=True,
    )
    config = transformers.LlamaConfig(
        vocab_size=len(llama_words),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return diffusers.HiDreamImagePipeline(
        transformer=randomised(transformer),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=shifted_autoencoder(),
        text_encoder=clip(words, 12, projection=7, positions=128),
        tokenizer=words,
        text_encoder_2=clip(words, 9, projection=5, positions=128, seed=1),
        tokenizer_2=words,
        text_encoder_3=t5(t5_words),
        tokenizer_3=t5_words,
        text_encoder_4=randomised(transformers.LlamaForCausalLM(config)),
        tokenizer_4=llama_words,
    )


def drawn(pipeline, start, steps=4, size=(16, 24), **options):
    """f32[B, H, W, 3], what a pipeline of diffusers draws of `PROMPTS` from this noise."""
    with torch.no_grad():
        return pipeline(
            PROMPTS,
            latents=start,
            num_inference_steps=steps,
            height=size[0],
            width=size[1],
            output_type="np",
            **options,
        ).images


def sana():
    """Sana with canvases of 8 x 8, of which images are four times as high and wide."""
    words = t5_tokenizer()
    transformer = diffusers.SanaTransformer2DModel(
        **HEADS,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_cross_attention_heads=3,
        cross_attention_head_dim=8,
        cross_attention_dim=24,
        caption_channels=12,
    )
    config = transformers.Gemma2Config(
        vocab_size=len(words),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        query_pre_attn_scalar=6,
    )
    stages = {
        f"{half}_{key}": value
        for half in ("encoder", "decoder")
        for key, value in (
            ("block_out_channels", (8, 8, 16)),
            ("block_types", ("ResBlock", "ResBlock", "EfficientViTBlock")),
            ("layers_per_block", (1, 1, 1)),
            ("qkv_multiscales", ((), (), (5,))),
        )
    }
    return diffusers.SanaPipeline(
        tokenizer=words,
        text_encoder=randomised(transformers.Gemma2Model(config)),
        vae=randomised(
            diffusers.AutoencoderDC(
                **stages,
                latent_channels=4,
                attention_head_dim=4,
                downsample_block_type="conv",
                upsample_block_type="interpolate",
                scaling_factor=0.4,
            )
        ),
        transformer=randomised(transformer),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
