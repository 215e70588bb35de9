"""Training of Duo-LLM's small feed-forwards and routers beside a frozen model."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.decoding.depth.duo import RoutedFeedForwards, SmallFeedForwards, unit
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Pass, Walk
from jaxmodels.models.depth_forward import forward_by_depth
from jaxmodels.training.depth.objective import Frozen, divergence


@dataclass(frozen=True, kw_only=True)
class DuoTraining:
    """A `RoutedFeedForwards` policy, and the training of its small feed-forwards and its router.

    Each token's choice is drawn from the router's softmax by the Gumbel-max trick, and passed by the gradient
    as if it were the softmax. The distributions are drawn to those of the model, each feed-forward is paid
    for, and small ones are drawn to what the blocks' own add. Source: Duo-LLM
    (https://arxiv.org/abs/2410.10846), whose small modules are trained by random choices from the start; the
    router's training is inferred.

    Attributes:
        d_ff: features of a small feed-forward.
        price: nats per token for all big feed-forwards together.
        small_price: of a small one, as a share of a big one's.
        fidelity: weight of the small ones' squared error over the square of what the big ones add.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    d_ff: int = 32
    price: float = 0.1
    small_price: float = 0.1
    fidelity: float = 0.1

    def __post_init__(self) -> None:
        whole("DuoTraining: d_ff", self.d_ff, low=1)
        for name in ("price", "fidelity"):
            number(f"DuoTraining: {name}", getattr(self, name), low=0)
        number("DuoTraining: small_price", self.small_price, low=0, high=1)

    def spec(self, model: Decoder) -> ParamTree:
        blocks, width, inner = len(model.blocks), model.d_model, self.d_ff
        into = Param((blocks, inner, width), ("layers", "mlp", "embed"), FanIn(width))
        return {
            "w_gate": into,
            "w_up": into,
            "w_down": Param((blocks, width, inner), ("layers", "embed", "mlp"), ZEROS),
            "router": Param((blocks, 3, width), ("layers", None, "embed"), ZEROS),
        }

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> Int[np.ndarray, "N S"]:
        return windows

    def loss(
        self, frozen: Frozen, params: Params, batch: Int[Array, "B S"], key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Tells the divergence."""
        pupil = _Pupil(self.policy(frozen.model, params), key, self.small_price)
        logits, walk = forward_by_depth(frozen.model, frozen.params, batch, pupil)
        nats = divergence(frozen.logits(batch), logits)
        paid, errors = (jnp.stack(values).mean() for values in zip(*walk.notes, strict=True))
        return nats + self.price * paid + self.fidelity * errors, nats

    def policy(self, model: Decoder, params: Params) -> RoutedFeedForwards:
        small = SmallFeedForwards(**{name: params[name] for name in ("w_gate", "w_up", "w_down")})
        return RoutedFeedForwards(small=small, router=params["router"])


@dataclass(frozen=True)
class _Pupil:
    """A `Depth`: what `policy` is, with choices that are drawn and that gradients pass. It notes of each
    block what its feed-forwards cost, and the error of the small one."""

    policy: RoutedFeedForwards
    key: Array
    small_price: float

    def begin(self, walk: Walk) -> Walk:
        return replace(self.policy.begin(walk), notes=())

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        block = offered.index
        read_mixer, read_ffn, written = offered.write_halves(stream)
        stream = read_mixer(stream)
        x, after = unit(stream), read_ffn(stream)
        logits = jnp.einsum("bsd,vd->bsv", x, self.policy.router[block])
        drawn = logits + jax.random.gumbel(jax.random.fold_in(self.key, block), logits.shape)
        shares = jax.nn.softmax(logits)
        chosen = jax.nn.one_hot(jnp.argmax(drawn, axis=-1), 3, dtype=shares.dtype)
        weights = shares + jax.lax.stop_gradient(chosen - shares)
        small, big = self.policy.small(block, x), after.hidden - stream.hidden
        of_big, of_small = weights[:, :, 0], weights[:, :, 1]
        added = of_small[:, :, None] * small + of_big[:, :, None] * big
        target = jax.lax.stop_gradient(big)
        error = jnp.square(small - target).mean() / jnp.maximum(jnp.square(target).mean(), 1e-9)
        paid = (of_big + self.small_price * of_small).mean()
        stream = replace(after, hidden=stream.hidden + added.astype(stream.hidden.dtype))
        return stream, written, replace(walk, notes=(*walk.notes, (paid, error)))
