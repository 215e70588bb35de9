"""What the families with mixtures of experts have in common: config keys and weight names."""

from typing import Any

from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SoftmaxTopK
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

ROUTER_WEIGHTS = (Weight("blocks/{i}/ffn/router/w", "model.layers.{i}.mlp.gate.weight"),)

EXPERT_WEIGHTS = tuple(
    Weight(
        f"blocks/{{i}}/ffn/experts/w_{name}",
        f"model.layers.{{i}}.mlp.experts.{{e}}.{name}_proj.weight",
        axes,
    )
    for name, axes in (("gate", "f d -> d f"), ("up", "f d -> d f"), ("down", "d f -> f d"))
)

SHARED_EXPERT_WEIGHTS = (
    *(
        Weight(
            f"blocks/{{i}}/ffn/shared/w_{name}",
            f"model.layers.{{i}}.mlp.shared_expert.{name}_proj.weight",
        )
        for name in ("gate", "up", "down")
    ),
    Weight("blocks/{i}/ffn/shared_gate/w", "model.layers.{i}.mlp.shared_expert_gate.weight"),
)

WEIGHTS = (*dense.WEIGHTS, *ROUTER_WEIGHTS, *EXPERT_WEIGHTS)

BLOCK_SPARSE = "model.layers.{i}.block_sparse_moe"
# Mixtral's names, which other families took over.
BLOCK_SPARSE_WEIGHTS = (
    Weight("blocks/{i}/ffn/router/w", f"{BLOCK_SPARSE}.gate.weight"),
    Weight("blocks/{i}/ffn/experts/w_gate", BLOCK_SPARSE + ".experts.{e}.w1.weight", "f d -> d f"),
    Weight("blocks/{i}/ffn/experts/w_up", BLOCK_SPARSE + ".experts.{e}.w3.weight", "f d -> d f"),
    Weight("blocks/{i}/ffn/experts/w_down", BLOCK_SPARSE + ".experts.{e}.w2.weight", "d f -> f d"),
)
# What transformers calls the module since it stacks the experts, and adapters with it.
BLOCK_SPARSE_RENAMED = ((r"\.mlp\.(gate|experts|shared_experts)\.", r".block_sparse_moe.\1."),)
# Those of Granite's mixtures, which stack the experts of a layer.
GRANITE_WEIGHTS = (
    Weight("blocks/{i}/ffn/router/w", f"{BLOCK_SPARSE}.router.layer.weight"),
    Weight("blocks/{i}/ffn/experts/w_gate", f"{BLOCK_SPARSE}.input_linear.weight", "e f d -> e d f", along=1),
    Weight("blocks/{i}/ffn/experts/w_up", f"{BLOCK_SPARSE}.input_linear.weight", "e f d -> e d f", along=1),
    Weight("blocks/{i}/ffn/experts/w_down", f"{BLOCK_SPARSE}.output_linear.weight", "e d f -> e f d"),
)


def read_expert_count(reader: ConfigReader) -> int:
    """The number of experts, under its authors' key or the one transformers writes it back as."""
    ours, theirs = reader.count("num_experts"), reader.count("num_local_experts")
    count = theirs if ours is None else ours
    if count is None:
        raise ConfigError(f"{reader.name}: key 'num_experts' or 'num_local_experts' is missing")
    reader.expect_same("num_local_experts", "num_experts", count)
    return count


def read_experts(reader: ConfigReader, d_ff: str) -> GatedExperts:
    """The stack of experts, their hidden size standing under the key `d_ff`."""
    return GatedExperts(
        num_experts=read_expert_count(reader),
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive(d_ff),
        activation=dense.read_activation(reader),
    )


def read_router(reader: ConfigReader, experts: GatedExperts, top_k: int, renormalise: bool) -> SoftmaxTopK:
    """Softmax top-k over `experts`; `top_k` is the family's default."""
    top_k = reader.positive_or("num_experts_per_tok", top_k)
    if top_k > experts.num_experts:
        raise ConfigError(
            f"{reader.name}: key 'num_experts_per_tok' must be at most the number of experts (num_experts or "
            f"num_local_experts) = {experts.num_experts}, got {top_k}"
        )
    return SoftmaxTopK(
        d_model=experts.d_model,
        num_experts=experts.num_experts,
        top_k=top_k,
        renormalise=renormalise,
    )


def sparse_layers(reader: ConfigReader) -> list[bool]:
    """Which layers are mixtures under the `decoder_sparse_step` and `mlp_only_layers` keys of Qwen."""
    layers, step = reader.positive("num_hidden_layers"), reader.positive_or("decoder_sparse_step", 1)
    plain = reader.indices("mlp_only_layers", layers, [])
    return [i not in plain and (i + 1) % step == 0 for i in range(layers)]


def read_feed_forwards(reader: ConfigReader, mixture: MoE) -> list[MoE | GatedMLP]:
    """`mixture` in the layers of `sparse_layers`, a dense feed-forward in the others."""
    sparse = sparse_layers(reader)
    if all(sparse):
        reader.consume("intermediate_size")  # the size of layers that there are none of
        return [mixture] * len(sparse)
    plain = dense.read_gated_mlp(reader)
    return [mixture if is_sparse else plain for is_sparse in sparse]


def mixtures(config: Decoder) -> list[MoE]:
    """The mixtures of experts among the feed-forwards.

    Raises ConfigError where there is none.
    """
    found = [block.ffn for block in config.blocks if isinstance(block.ffn, MoE)]
    if not found:
        raise ConfigError(f"the {config.family!r} layout holds mixtures of experts; the model has none")
    return found


def router_of(mixture: MoE) -> SoftmaxTopK:
    """The mixture's router.

    Raises ConfigError where it is of another kind.
    """
    if not isinstance(mixture.router, SoftmaxTopK):
        raise ConfigError(f"the layout holds softmax top-k routers, not {mixture.router}")
    return mixture.router


def write_sparse_layers(config: Decoder) -> dict[str, Any]:
    """The keys that `read_feed_forwards` reads; no dense size where no layer has one.

    Layers are counted by the step where every one of several periods has its mixture, else they are listed.
    """
    plain = {i: block.ffn for i, block in enumerate(config.blocks) if isinstance(block.ffn, GatedMLP)}
    written: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": list(plain)}
    first = next(i for i in range(len(config.blocks)) if i not in plain)
    stepped = [i for i in range(len(config.blocks)) if (i + 1) % (first + 1)]
    if plain and max(plain) > first and list(plain) == stepped:
        written = {"decoder_sparse_step": first + 1, "mlp_only_layers": []}
    if plain:
        written["intermediate_size"] = next(iter(plain.values())).d_ff
    return written


def write_qwen(config: Decoder) -> dict[str, Any]:
    """The keys that the mixtures of Qwen and OLMoE share, beside attention's."""
    mixture = mixtures(config)[0]
    router = router_of(mixture)
    return {
        "num_experts": router.num_experts,
        "num_experts_per_tok": router.top_k,
        "norm_topk_prob": router.renormalise,
    }
