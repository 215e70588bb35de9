"""Tiny DiffusionGemmas of transformers, with the parts of an image model that it always has."""

import dataclasses
import functools
import tempfile
from typing import Any

import numpy as np

TEXT = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "moe_intermediate_size": 12,
    "num_experts": 5, "top_k_experts": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 10, "global_head_dim": 14, "num_global_key_value_heads": 1, "sliding_window": 7,
    "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
VISION = {
    "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4,
    "position_embedding_size": 16,
}  # fmt: skip
# What is changed in TEXT, and the length of the canvas.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "longer_window": ({}, 5),
    "longer_canvas": (
        {"sliding_window": 3, "top_k_experts": 5, "hidden_activation": "silu", "num_hidden_layers": 3,
         "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        9,
    ),
    "full_only": (
        {"layer_types": None, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 3,
         "num_global_key_value_heads": None, "global_head_dim": 6, "hidden_size": 22},
        8,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Built:
    """A model of transformers and its checkpoint."""

    model: Any
    directory: str

    def encode(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """Logits of the causal reading, which makes the tokens history."""
        import torch

        with torch.no_grad():
            hidden = self.model.model.encoder(input_ids=torch.tensor(tokens), cache=cache).last_hidden_state
            cap = self.model.final_logit_softcapping
            return (cap * torch.tanh(self.model.lm_head(hidden) / cap)).numpy()

    def denoise(self, canvas: np.ndarray, before: np.ndarray | None, cache: Any) -> np.ndarray:
        """Logits of the canvas behind that history, told of the logits `before`."""
        import torch

        told = None if before is None else torch.tensor(before)
        with torch.no_grad():
            return self.model(
                cache=cache, decoder_input_ids=torch.tensor(canvas), self_conditioning_logits=told
            ).logits.numpy()

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config.get_text_config(decoder=True))


@functools.cache
def build(case: str, sharpness: float = 0.5) -> Built:
    """The model of a case, none of whose weights has its initial value; saved as transformers does.

    `sharpness` is the size of the embeddings, and with it that of the logits.
    """
    import torch
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    changes, canvas = CASES[case]
    config = DiffusionGemmaConfig(
        text_config={**TEXT, **changes}, vision_config=dict(VISION), canvas_length=canvas
    )
    config.text_config._experts_implementation = "eager"
    model = DiffusionGemmaForBlockDiffusion(config).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = rng.standard_normal(parameter.shape)
            if parameter.ndim == 1:
                new = parameter.numpy() + 0.2 * noise
            elif "embed_tokens" in name:
                new = sharpness * noise
            else:  # from step to step, a canvas that is told of much would multiply errors of rounding
                gain = 0.3 if "self_conditioning" in name else 1.5
                new = gain * noise * parameter.shape[-1] ** -0.5
            parameter.copy_(torch.tensor(new))
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(torch.tensor(1 + 0.2 * rng.standard_normal(1)))
    directory = tempfile.mkdtemp(prefix="diffusion-gemma-")
    model.save_pretrained(directory)
    return Built(model, directory)
