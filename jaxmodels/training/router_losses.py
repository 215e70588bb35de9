"""What training adds to the loss of a model with mixtures of experts, and does beside the gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.layers.moe.losses import (
    chunk_sparsity_loss,
    coupling_loss,
    load_balance_loss,
    locality_loss,
    router_z_loss,
    update_selection_bias,
)
from jaxmodels.layers.moe.routing import Routing, expert_load
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.training.trainable import Trainable

Loads = dict[str, Int[Array, "*layers E"]]
SCOPES = ("row", "micro_batch", "batch")


class RoutedLanguageModel(Trainable, Protocol):
    """A language model with mixtures of experts. `Decoder` and `ScannedDecoder` are."""

    def forward_with_routing(
        self, params: Params, tokens: Int[Array, "B S"]
    ) -> tuple[Float[Array, "B S V"], dict[str, Routing]]:
        """`forward`, and each mixture's routing by the name of its block in ``params["blocks"]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class RouterLosses:
    """Weights of the losses of `layers.moe.losses`, each a mean over the mixtures of experts.

    Attributes:
        load_balance: of `load_balance_loss`.
        scope: over what the load is to be balanced: each "row", each "micro_batch", or the whole "batch" (the
            global-batch loss: a micro-batch also counts the load of those before it).
        z: of `router_z_loss`.
        coupling: of `coupling_loss`, with noise.
        coupling_alpha: its `alpha`.
        locality: of `locality_loss`.
        chunk: of `chunk_sparsity_loss`, over chunks of `chunk_size` tokens.
        bias_rate: step of `update_selection_bias`, for routers that have one.

    Raises:
        ValueError: a weight is negative, `coupling_alpha` above 1, `chunk_size` below 1, or `scope` unknown.
    """

    load_balance: float = 0.0
    scope: str = "batch"
    z: float = 0.0
    coupling: float = 0.0
    coupling_alpha: float = 1.0
    locality: float = 0.0
    chunk: float = 0.0
    chunk_size: int = 64
    bias_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "load_balance", "z", "coupling", "coupling_alpha", "locality", "chunk", "bias_rate",
        ):  # fmt: skip
            number(f"RouterLosses: {name}", getattr(self, name), low=0)
        if self.chunk_size < 1:
            raise ValueError(f"RouterLosses: chunk_size must be at least 1, got {self.chunk_size}")
        if self.coupling_alpha > 1:
            raise ValueError(f"RouterLosses: coupling_alpha must be at most 1, got {self.coupling_alpha}")
        if self.scope not in SCOPES:
            raise ValueError(f"RouterLosses: scope must be one of {', '.join(SCOPES)}, got {self.scope!r}")

    def check(self, spec: ParamTree, routings: Mapping[str, Routing]) -> None:
        """Raises ValueError where there is nothing in the model that these losses apply to."""
        if not routings:
            raise ValueError("router_losses are given, but no block of the model is a mixture of experts")
        if self.bias_rate and not any("selection_bias" in _ffn(spec, name)["router"] for name in routings):
            raise ValueError(
                f"router_losses: bias_rate={self.bias_rate}, but no router of the model has a selection bias"
            )
        for name in routings if self.coupling else ():
            layer = _ffn(spec, name)
            if "latent" in layer or not {"w_gate", "w_up"} & layer.get("experts", {}).keys():
                raise ValueError(
                    f"router_losses: coupling={self.coupling} compares a router's rows with the experts' "
                    f"w_gate or w_up on the same input, which those of block {name} do not have"
                )

    def total(
        self, params: Params, routings: Mapping[str, Routing], loads_before: Loads, key: jax.Array
    ) -> Float[Array, ""]:
        """The weighted sum of the losses, for one micro-batch."""
        total = jnp.zeros(())
        for i, (name, routing) in enumerate(routings.items()):
            if self.load_balance:
                before = loads_before[name] if self.scope == "batch" else None
                balance = load_balance_loss(routing, by_row=self.scope == "row", load_before=before)
                total = total + self.load_balance * balance
            if self.z:
                total = total + self.z * router_z_loss(routing)
            if self.locality:
                total = total + self.locality * locality_loss(routing)
            if self.chunk:
                total = total + self.chunk * chunk_sparsity_loss(routing, self.chunk_size)
            if self.coupling:
                layer = _ffn(params, name)
                experts = layer["experts"]
                w_in = experts["w_gate"] if "w_gate" in experts else experts["w_up"]
                noise = jax.random.fold_in(key, i)
                coupled = coupling_loss(layer["router"]["w"], w_in, noise, self.coupling_alpha)
                total = total + self.coupling * coupled
        return total / len(routings)

    def after_update(self, params: Params, loads: Loads) -> Params:
        """The parameters with selection biases moved against the load of the whole batch."""
        if not self.bias_rate:
            return params
        blocks = dict(params["blocks"])
        for name, load in loads.items():
            layer = _ffn(params, name)
            if "selection_bias" in layer["router"]:
                bias = update_selection_bias(layer["router"]["selection_bias"], load, self.bias_rate)
                router = {**layer["router"], "selection_bias": bias}
                blocks[name] = {**blocks[name], "ffn": {**layer, "router": router}}
        return {**params, "blocks": blocks}


def loads_of(routings: Mapping[str, Routing]) -> Loads:
    """Slots filled per expert, by block."""
    return {name: expert_load(routing) for name, routing in routings.items()}


def busiest(loads: Loads) -> Float[Array, ""]:
    """The largest load over the mean one, the worst of all layers; 1 under perfect balance."""
    ratios = [(load.max(-1) / jnp.maximum(load.mean(-1), 1e-9)).max() for load in loads.values()]
    return jnp.stack(ratios).max()


def _ffn(tree: Mapping, name: str) -> dict:
    return tree["blocks"][name]["ffn"]
