"""Checkpoints of transformers' models with modules for multi-token prediction, and what the modules compute.

A module is made of transformers' own layers and saved under the names that checkpoints are published with.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import references
from configurations.case import Case, StandIn, dense_case

LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 14, "q_lora_rank": 10, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6, "v_head_dim": 5,
}  # fmt: skip
EXPERTS = {
    "moe_intermediate_size": 12, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
SSD = {"mamba_num_heads": 8, "mamba_head_dim": 5, "ssm_state_size": 10, "n_groups": 2, "head_dim": 10}
# So few tokens that some drafts of random weights are right.
FEW = {"vocab_size": 7, "bos_token_id": None, "eos_token_id": None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTPCase:
    """A model and its modules.

    Attributes:
        case: the model.
        count: the modules.
        keys: what the configuration says of them.
        layers: numbers of layers of the model that a module is made like.
        name: a tensor's published name, from the number of its module, that of its layer in the module and
            its name in `TorchModule`.
        hidden_first: whether the hidden state stands before the embedding in the published projection.
    """

    case: Case
    count: int
    keys: Mapping[str, Any]
    layers: tuple[int, ...]
    name: Callable[[int, int, str], str]
    hidden_first: bool = False


def deepseek_name(number_of_layers: int) -> Callable[[int, int, str], str]:
    names = {"final_norm.": "shared_head.norm."}

    def name(module: int, layer: int, own: str) -> str:
        front = f"model.layers.{number_of_layers + module}."
        return front + next(
            (new + own.removeprefix(old) for old, new in names.items() if own.startswith(old)), own
        )

    return name


def qwen_name(module: int, layer: int, own: str) -> str:
    names = {
        "enorm.": "pre_fc_norm_embedding.",
        "hnorm.": "pre_fc_norm_hidden.",
        "eh_proj.": "fc.",
        "final_norm.": "norm.",
    }
    for old, new in names.items():
        if own.startswith(old):
            return "mtp." + new + own.removeprefix(old)
    return f"mtp.layers.{module}.{own}"


def nemotron_name(module: int, layer: int, own: str) -> str:
    if own.startswith("final_norm."):
        return f"mtp.layers.1.final_layernorm.{own.removeprefix('final_norm.')}"
    return f"mtp.layers.{layer}.{own}"


DEEPSEEK = MTPCase(
    case=dense_case(
        "deepseek_v3", "mtp", num_hidden_layers=2, num_nextn_predict_layers=1, **FEW, **LATENT, **EXPERTS
    ),
    count=1,
    keys={"num_nextn_predict_layers": 1},
    layers=(1,),
    name=deepseek_name(2),
)
GLM = MTPCase(
    case=dense_case(
        "glm4_moe",
        "mtp",
        num_hidden_layers=2,
        num_nextn_predict_layers=2,
        use_qk_norm=True,
        head_dim=8,
        **FEW,
        **EXPERTS,
    ),
    count=2,
    keys={"num_nextn_predict_layers": 2},
    layers=(1,),
    name=deepseek_name(2),
)
QWEN3_NEXT = MTPCase(
    case=dense_case(
        "qwen3_next", "mtp", num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"], head_dim=10,
        linear_num_value_heads=4, linear_num_key_heads=2, linear_value_head_dim=6, linear_key_head_dim=5,
        num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=12,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.2}, **FEW,
    ),
    count=1,
    keys={},
    layers=(1,),
    name=qwen_name,
)  # fmt: skip
NEMOTRON_H = MTPCase(
    case=dense_case(
        "nemotron_h", "mtp", num_hidden_layers=None,
        layers_block_type=["linear_attention", "moe", "full_attention"],
        chunk_size=16, moe_intermediate_size=12, moe_shared_expert_intermediate_size=20, n_routed_experts=8,
        num_experts_per_tok=3, moe_latent_size=10, **SSD, **FEW,
    ),
    count=1,
    keys={"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"},
    layers=(2, 1),
    name=nemotron_name,
)  # fmt: skip


def mimo_name(module: int, layer: int, own: str) -> str:
    names = {"enorm.": "token_layernorm.", "hnorm.": "hidden_layernorm.", "eh_proj.": "input_proj.",
             "final_norm.": "final_layernorm."}  # fmt: skip
    for old, new in names.items():
        if own.startswith(old):
            return f"model.mtp_layers.{module}.{new}{own.removeprefix(old)}"
    return f"model.mtp_layers.{module}.{own}"


_QWEN2 = dense_case("qwen2", "mtp", **FEW)
MIMO = MTPCase(
    case=dataclasses.replace(
        _QWEN2,
        name="mimo-mtp",
        family="mimo",
        config={**_QWEN2.config, "model_type": "mimo", "attention_bias": True},
        stand_in=StandIn(family="qwen2", config=_QWEN2.config, rename=dict),
    ),
    count=1,
    keys={"num_nextn_predict_layers": 1},
    layers=(1,),
    name=mimo_name,
    hidden_first=True,
)
GLM_LITE = MTPCase(
    case=dense_case(
        "glm4_moe_lite", "mtp", num_hidden_layers=2, **FEW, **LATENT,
        **{key: value for key, value in EXPERTS.items() if key != "first_k_dense_replace"},
    ),
    count=1,
    keys={"num_nextn_predict_layers": 1},
    layers=(1,),
    name=deepseek_name(2),
)  # fmt: skip
QWEN3_5 = MTPCase(
    case=dense_case(
        "qwen3_5_text", "mtp", num_hidden_layers=2, head_dim=10,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4, linear_num_key_heads=2, linear_value_head_dim=6, linear_key_head_dim=5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.2}, **FEW,
    ),
    count=1,
    keys={"mtp_num_hidden_layers": 1},
    layers=(1,),
    name=qwen_name,
)  # fmt: skip
MTP_CASES = (DEEPSEEK, GLM, QWEN3_NEXT, NEMOTRON_H, MIMO, GLM_LITE, QWEN3_5)


def torch_module(mtp: MTPCase, model: Any) -> Any:
    """One module: norms and projection around layers of the model's classes."""
    import torch

    config, base = model.config, model.get_decoder()
    layers = [base.layers[i] for i in mtp.layers]
    norm = next(type(m) for name, m in layers[0].named_modules() if name in ("norm", "input_layernorm"))
    eps = getattr(config, "rms_norm_eps", None) or config.layer_norm_epsilon

    class TorchModule(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enorm, self.hnorm = norm(config.hidden_size, eps), norm(config.hidden_size, eps)
            self.final_norm = norm(config.hidden_size, eps)
            self.eh_proj = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
            self.layers = torch.nn.ModuleList(
                type(layer)(config, i) for layer, i in zip(layers, mtp.layers, strict=True)
            )

        def forward(self, embedded: Any, hidden: Any) -> Any:
            x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
            size = x.shape[1]
            positions = torch.arange(size)[None]
            mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]
            rotary = getattr(base, "rotary_emb", None)
            given = {} if rotary is None else {"position_embeddings": rotary(x, positions)}
            for layer in self.layers:
                x = layer(x, attention_mask=mask, position_ids=positions, **given)
            return self.final_norm(x)

    return TorchModule().eval()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTPReference:
    """A checkpoint with its modules, and what they compute.

    Attributes:
        mtp: the case.
        directory: the checkpoint.
        model: the torch model.
        modules: the torch modules.
        names: the published names of the modules' tensors.
        tokens: i64[2, S].
        logits: f32[2, S, V] of each module.
    """

    mtp: MTPCase
    directory: Path
    model: Any
    modules: list[Any]
    names: tuple[str, ...]
    tokens: np.ndarray
    logits: list[np.ndarray]


def build(mtp: MTPCase, directory: Path) -> MTPReference:
    """The reference of a case, its checkpoint in `directory`."""
    import torch
    from safetensors.torch import load_file, save_file

    rng = np.random.default_rng(1)
    model = references.random_model(mtp.case, rng)
    modules = [torch_module(mtp, model) for _ in range(mtp.count)]
    tensors: dict[str, Any] = {}
    with torch.no_grad():
        for k, module in enumerate(modules):
            for name, values in (*module.named_parameters(), *module.named_buffers()):
                values.copy_(torch.tensor(references.perturbed(name, values.numpy(), rng)))
                tensors |= dict(_published(mtp, k, name, values))
    references.save(mtp.case, model, directory)
    file = directory / "model.safetensors"
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})
    config = directory / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **mtp.keys}))
    tokens = rng.integers(model.config.vocab_size, size=(2, 21))
    return MTPReference(
        mtp=mtp,
        directory=directory,
        model=model,
        modules=modules,
        names=tuple(tensors),
        tokens=tokens,
        logits=_logits(model, modules, tokens),
    )


def _published(mtp: MTPCase, module: int, name: str, values: Any) -> list[tuple[str, Any]]:
    """A module's parameter as the tensors that are published, those of experts one by one."""
    layer = 0
    if name.startswith("layers."):
        layer, name = int(name.split(".")[1]), name.split(".", 2)[2]
    if name == "eh_proj.weight" and mtp.hidden_first:
        values = values.roll(values.shape[1] // 2, dims=1)
    if values.ndim < 3:
        return [(mtp.name(module, layer, name), values.clone().contiguous())]
    front, kind = name.rsplit(".", 1)
    parts = {"gate_up_proj": ("gate_proj", "up_proj")}.get(kind, (kind,))
    return [
        (mtp.name(module, layer, f"{front}.{expert}.{part}.weight"), share.clone().contiguous())
        for expert, matrix in enumerate(values)
        for part, share in zip(parts, matrix.chunk(len(parts)), strict=True)
    ]


def _logits(model: Any, modules: list[Any], tokens: np.ndarray) -> list[np.ndarray]:
    import torch

    base, found = model.get_decoder(), []
    with torch.no_grad():
        given = torch.tensor(tokens)
        hidden = base(given, use_cache=False).last_hidden_state
        for k, module in enumerate(modules):
            following = torch.roll(given, -(k + 1), dims=1)
            hidden = module(base.get_input_embeddings()(following), hidden)
            found.append(model.lm_head(hidden).numpy())
    return found


def without_modules(reference: MTPReference, directory: Path) -> Path:
    """A copy of the checkpoint that has lost its modules."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(reference.directory, directory)
    tensors = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if name not in reference.names}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
