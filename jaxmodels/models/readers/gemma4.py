"""What models on Gemma 4's layers have in common: two kinds of attention, experts beside a dense layer."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, RMSRouter
from jaxmodels.layers.norm import RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense
from jaxmodels.models.readers.dense import FULL, SLIDING
from jaxmodels.models.scaled_block import ScaledBlock

# What transformers' configuration classes of these families assume where the key is absent.
HEAD_DIM, FULL_HEAD_DIM, WINDOW, FULL_EVERY = 256, 512, 512, 6
ROPES: Mapping[str, Mapping[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}

LAYER = "model.layers.{i}"
EXPERTS_WEIGHTS = (
    *(
        Weight(f"blocks/{{i}}/ffn/shared/w_{name}", f"{LAYER}.mlp.{name}_proj.weight")
        for name in ("gate", "up", "down")
    ),
    Weight("blocks/{i}/ffn/shared_norm/scale", f"{LAYER}.pre_feedforward_layernorm.weight"),
    Weight("blocks/{i}/ffn/shared_post_norm/scale", f"{LAYER}.post_feedforward_layernorm_1.weight"),
    Weight("blocks/{i}/ffn/expert_norm/scale", f"{LAYER}.pre_feedforward_layernorm_2.weight"),
    Weight("blocks/{i}/ffn/expert_post_norm/scale", f"{LAYER}.post_feedforward_layernorm_2.weight"),
    Weight("blocks/{i}/ffn/router/w", f"{LAYER}.router.proj.weight"),
    Weight("blocks/{i}/ffn/router/scale", f"{LAYER}.router.scale"),
    Weight("blocks/{i}/ffn/router/expert_scale", f"{LAYER}.router.per_expert_scale"),
    Weight("blocks/{i}/ffn/experts/w_gate", f"{LAYER}.experts.gate_up_proj", "e f d -> e d f", along=1),
    Weight("blocks/{i}/ffn/experts/w_up", f"{LAYER}.experts.gate_up_proj", "e f d -> e d f", along=1),
    Weight("blocks/{i}/ffn/experts/w_down", f"{LAYER}.experts.down_proj", "e d f -> e f d"),
)
WEIGHTS = (
    *dense.POST_NORM_TABLE,
    *EXPERTS_WEIGHTS,
    Weight("blocks/{i}/scale", f"{LAYER}.layer_scalar"),
)


def rows_under(front: str, rows: Iterable[Weight]) -> tuple[Weight, ...]:
    """The rows with ``front`` in the place of ``model.`` in their tensors' names."""
    return tuple(replace(row, theirs=_under(front, row.theirs)) for row in rows)


def _under(front: str, name: str) -> str:
    return front + name.removeprefix("model.") if name.startswith("model.") else name


# --- attention ---------------------------------------------------------------------------------------


def read_attentions(reader: ConfigReader) -> list[Attention]:
    """The attention of each layer: sliding, or full with heads of another width whose keys are values too.

    Queries and keys have norms and no other scale; values have a norm without weights.
    """
    layers = reader.positive("num_hidden_layers")
    default = [*dense.full_every(FULL_EVERY, layers)[:-1], FULL]
    types = dense.read_layer_types(reader, default)
    if types[-1] != FULL:
        raise ConfigError(
            f"{reader.name}: key 'layer_types' must end in {FULL!r}, as transformers makes of it whatever it "
            f"says, got {types[-1]!r}"
        )
    heads = dense.read_heads(reader, HEAD_DIM)
    sizes = {SLIDING: heads, FULL: heads | _read_full_heads(reader, types, heads)}
    ropes = _read_ropes(reader, {kind: sizes[kind]["head_dim"] for kind in sizes}, types)
    bias, eps = reader.flag("attention_bias", False), dense.read_norm(reader).eps
    windows = dense.windows_of(types, dense.read_window(reader, WINDOW))
    reader.expect("attention_k_eq_v", None, True)
    # Between the encoder's text tokens: those of an image see one another both ways with "vision".
    reader.expect("use_bidirectional_attention", None, "vision")
    return [
        _attention(sizes[kind], ropes[kind], eps, bias, window)
        for kind, window in zip(types, windows, strict=True)
    ]


def _attention(sizes: dict[str, Any], rope: Rope, eps: float, bias: bool, window: int | None) -> Attention:
    norm = RMSNorm(dim=sizes["head_dim"], eps=eps, axis=None)
    return Attention(
        **sizes,
        rope=rope,
        query_norm=norm,
        key_norm=norm,
        value_norm=WeightlessRMSNorm(eps=eps),
        keys_as_values=window is None,
        sliding_window=window,
        scale=1.0,
        qkv_bias=bias,
        out_bias=bias,
    )


def _read_full_heads(reader: ConfigReader, types: list[str], heads: Mapping[str, int]) -> dict[str, int]:
    """What the heads of full attention have otherwise: of `per_layer_config`, as transformers writes it, or
    of the keys that it is made of."""
    width = reader.positive_or("global_head_dim", FULL_HEAD_DIM)
    count = reader.positive_or("num_global_key_value_heads", heads["num_kv_heads"])
    written = reader.optional("per_layer_config", dict)
    if written is not None:
        width, count = _of_full_layers(reader, written, types, heads)
    reader.check_divides("num_global_key_value_heads", count, "num_attention_heads", heads["num_heads"])
    return {"head_dim": width, "num_kv_heads": count}


def _of_full_layers(
    reader: ConfigReader, written: Mapping[str, Any], types: list[str], heads: Mapping[str, int]
) -> tuple[int, int]:
    """Head width and key heads in `per_layer_config`, which must be the same for all full layers, and the
    configuration's own for all others."""
    plain = {"head_dim": heads["head_dim"], "num_key_value_heads": heads["num_kv_heads"]}
    found: dict[str, dict[str, int]] = {}
    for i, kind in enumerate(types):
        own = written.get(str(i), {})
        if not isinstance(own, Mapping) or not set(own) <= set(plain):
            raise ConfigError(
                f"{reader.name}: key 'per_layer_config' must hold {sorted(plain)} for layer {i}, "
                f"got {shown(own)}"
            )
        section = ConfigReader(own, f"{reader.name}: per_layer_config/{i}")
        values = {key: section.positive_or(key, value) for key, value in plain.items()}
        if values != found.setdefault(kind, values if kind == FULL else plain):
            raise ConfigError(
                f"{reader.name}: key 'per_layer_config' must give all {kind!r} layers the same heads, "
                f"{found[kind]}, got {values} for layer {i}"
            )
    return found[FULL]["head_dim"], found[FULL]["num_key_value_heads"]


def _read_ropes(reader: ConfigReader, head_dims: Mapping[str, int], types: list[str]) -> dict[str, Rope]:
    """The rotary embedding of each kind of layer in `rope_parameters`."""
    reader.consume(*dense.ROPE_KEYS, "max_position_embeddings")
    reader.expect("rope_scaling", None)
    given = reader.take_or("rope_parameters", dict, dict(ROPES))
    if not set(types) <= set(given) <= set(ROPES) or not all(isinstance(v, Mapping) for v in given.values()):
        raise ConfigError(
            f"{reader.name}: key 'rope_parameters' must hold a dictionary for each of {sorted(ROPES)}, got "
            f"{shown(given)}"
        )
    ropes = {}
    for kind, inner in given.items():
        values = {**reader.values, "rope_parameters": inner, "rope_scaling": None}
        ropes[kind] = dense.parse_rope(
            reader, values, head_dims[kind], dense.DEFAULT_THETA, "half_split", 1.0
        )
        if ropes[kind].rotary_dim != head_dims[kind]:
            raise ConfigError(
                f"{reader.name}: key 'rope_parameters' must turn whole heads of {kind!r} layers, or a part "
                f"of them with rope_type 'proportional', got {shown(inner)}"
            )
    return ropes


def write_attentions(config: Decoder) -> dict[str, Any]:
    """The keys that `read_attentions` reads."""
    layers = dense.attentions(config)
    full = next(a for a in layers if a.sliding_window is None)
    plain = next((a for a in layers if a.sliding_window is not None), full)
    return {
        "num_attention_heads": plain.num_heads,
        "num_key_value_heads": plain.num_kv_heads,
        "head_dim": plain.head_dim,
        "global_head_dim": full.head_dim,
        "num_global_key_value_heads": full.num_kv_heads,
        "attention_bias": plain.qkv_bias,
        **dense.write_layer_types(config),
        **dense.write_ropes(config),
    }


# --- feed-forward and blocks -------------------------------------------------------------------------


def read_dense(reader: ConfigReader) -> GatedMLP:
    """The gated feed-forward of `hidden_size` and `intermediate_size`."""
    return GatedMLP(
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive("intermediate_size"),
        activation=dense.read_activation(reader, "hidden_activation", "gelu_pytorch_tanh"),
    )


def read_mixture(reader: ConfigReader) -> MoE:
    """The mixture of experts, with the dense feed-forward that every token passes beside it."""
    beside, norm = read_dense(reader), dense.read_norm(reader)
    experts, top_k = reader.positive("num_experts"), reader.positive("top_k_experts")
    if top_k > experts:
        raise ConfigError(
            f"{reader.name}: key 'top_k_experts' must be at most 'num_experts' = {experts}, got {top_k}"
        )
    return MoE(
        router=RMSRouter(d_model=norm.dim, num_experts=experts, top_k=top_k, eps=norm.eps),
        experts=GatedExperts(
            num_experts=experts,
            d_model=norm.dim,
            d_ff=reader.positive("moe_intermediate_size"),
            activation=beside.activation,
        ),
        shared=beside,
        expert_norm=norm,
        expert_post_norm=norm,
        shared_norm=norm,
        shared_post_norm=norm,
    )


def mixture_blocks(norm: RMSNorm, attentions: Iterable[Attention], mixture: MoE) -> list[ScaledBlock]:
    """A block for each attention layer, all with this mixture, which brings the norms that it reads by."""
    around = Block(ffn=mixture, ffn_post_norm=norm)
    return [
        ScaledBlock(block=replace(around, mixer_norm=norm, mixer=mixer, mixer_post_norm=norm))
        for mixer in attentions
    ]


def write_mixture(mixture: MoE) -> dict[str, Any]:
    """The keys that `read_mixture` reads."""
    beside, experts = mixture.shared, mixture.experts
    assert isinstance(beside, GatedMLP) and isinstance(experts, GatedExperts)
    return {
        "intermediate_size": beside.d_ff,
        "hidden_activation": beside.activation,
        "num_experts": experts.num_experts,
        "top_k_experts": mixture.router.top_k,
        "moe_intermediate_size": experts.d_ff,
    }
