"""Small base models with LoRA adapters, both written by transformers and peft, and what they compute."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])

_SMALL = {
    "vocab_size": 29,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BASES: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "qwen2": _SMALL | {"tie_word_embeddings": True},
    "phi3": _SMALL,
    "gpt2": {"vocab_size": 29, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "mamba2": {
        "vocab_size": 29,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 16,
        "n_groups": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "mixtral": _SMALL | {"num_local_experts": 4},
    "qwen3_moe": _SMALL
    | {"head_dim": 8, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": _SMALL | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}


@dataclass(frozen=True)
class Adapted:
    """base, adapter: directories. logits: of the adapted model on `TOKENS`, float32[B, S, V]."""

    base: Path
    adapter: Path
    logits: np.ndarray


def base_model(family: str, config: Mapping[str, Any] | None = None) -> Any:
    """The model of transformers, with weights that are large enough for every part to show."""
    torch.manual_seed(0)
    values = AutoConfig.for_model(family, **(config or BASES[family]))
    values._experts_implementation = "eager"  # the others take sizes that are multiples of 4 alone
    model = AutoModelForCausalLM.from_config(values).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def adapt(
    directory: Path, family: str, *, seed: int = 1, config: Mapping[str, Any] | None = None, **settings: Any
) -> Adapted:
    """Writes a base and an adapter in all of whose tensors there is something to lose.

    `config` is the base's, that of `BASES` by default; `settings` are peft's.
    """
    from peft import LoraConfig, get_peft_model  # takes seconds: only where it is used

    model = base_model(family, config)
    base, adapter = directory / family, directory / f"{family}-adapter-{seed}"
    model.save_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(
            copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        ).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))
        wrapped.save_pretrained(adapter)
    return Adapted(base, adapter, logits_of(wrapped))


def logits_of(model: Any) -> np.ndarray:
    """What a model of transformers or peft computes on `TOKENS`."""
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def assert_logits(ours: Any, theirs: np.ndarray) -> None:
    """Equal but for rounding."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
