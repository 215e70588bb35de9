"""A confidence that is learned and remembers: a small Mamba block at each exit, which reads all tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.depth.confidence.confidence import Passed
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mamba_mixer import MambaMixer
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import ZEROS, FanIn, Param, ParamTree, matrix
from jaxmodels.layers.window import Window
from jaxmodels.models.depth import Walk
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class RecurrentConfidence:
    """A Mamba block of few features as the classifier of each exit, for models of any kind of mixer.

    Behind block i the stream is normalised and projected to ``x`` [width]; the confidence is
    ``sigmoid(w_out . (x + mamba(norm(x))) + b_out)``. The block reads every token, those that left before
    with the stream of their exit, so that its state has no gaps; of a prompt that was read by another policy
    it has seen nothing. Source: DYNAMAX (https://arxiv.org/abs/2504.20922); the sizes, the projection and
    what the classifier sees of tokens that left are inferred.

    Attributes:
        params: by the number of the block behind which a classifier stands, as text, what `exit_spec`
            describes.
        width: features of the blocks; the inner width is twice that.
        state_dim: of the scan.

    Raises:
        ValueError: a size below 1, or parameters that do not name blocks; when traced, a block without a
            classifier, or parameters of a model of another width.
    """

    params: Mapping[str, Any]
    width: int = 32
    state_dim: int = 8

    def __post_init__(self) -> None:
        for name in ("width", "state_dim"):
            object.__setattr__(self, name, whole(f"RecurrentConfidence: {name}", getattr(self, name), low=1))
        if is_traced(self.params):
            return
        if not isinstance(self.params, Mapping) or not all(str(key).isdecimal() for key in self.params):
            raise ValueError(
                "RecurrentConfidence: params must be a mapping from numbers of blocks, got "
                f"{shown(self.params)}"
            )

    def state_spec(self, batch: int, d_model: int) -> Any:
        """For each exit the Mamba block's, as it is in front of a sequence."""
        return {exit: self._mixer.state_spec(batch, 0) for exit in self.params}

    def recall(self, passed: Passed, walk: Walk) -> tuple[Float[Array, "B S"], Walk]:
        exit = str(passed.index)
        if exit not in self.params:
            raise ValueError(
                f"RecurrentConfidence: there is no classifier behind block {exit}, only behind "
                f"{', '.join(self.params)}; see UntilConfident(asked=...)"
            )
        params, hidden = self.params[exit], passed.after.hidden.astype(jnp.float32)
        if params["w_in"].shape[-1] != hidden.shape[-1]:
            raise ValueError(
                f"RecurrentConfidence: w_in {list(params['w_in'].shape)} is for another model: this one's "
                f"stream has a width of {hidden.shape[-1]}"
            )
        x = linear(_norm(hidden.shape[-1])(params["norm"], hidden), params["w_in"])
        mixed, behind = self._mixed(params, x, walk.state[exit], walk.window)
        score = (x + mixed) @ params["w_out"] + params["b_out"]
        return jax.nn.sigmoid(score), replace(walk, state={**walk.state, exit: behind})

    def _mixed(
        self, params: Any, x: Float[Array, "B S W"], before: Any, window: Window
    ) -> tuple[Float[Array, "B S W"], Any]:
        """The mixer's output, and its state behind each token."""
        held, pending = self._mixer.write(
            params["mixer"], _norm(self.width)(params["mixer_norm"], x), before, window
        )
        mixed = self._mixer.read(params["mixer"], held, pending, window)
        if window.size == 1:
            behind = jax.tree.map(lambda leaf: leaf[:, None], self._mixer.commit(pending))
        else:
            counts = jnp.minimum(1 + jnp.arange(window.size)[:, None], window.valid)
            behind = jax.vmap(lambda n: self._mixer.commit(pending, n), out_axes=1)(counts)
        return mixed, jax.tree.map(lambda new, old: new.astype(old.dtype), behind, before)

    @property
    def _mixer(self) -> MambaMixer:
        return mixer_of(self.width, self.state_dim)


def mixer_of(width: int, state_dim: int) -> MambaMixer:
    """The mixer of a classifier with so many features."""
    return MambaMixer(d_model=width, d_inner=2 * width, state_dim=state_dim, dt_rank=max(1, width // 16))


def exit_spec(d_model: int, width: int, state_dim: int) -> ParamTree:
    """The parameters of one exit's classifier."""
    return {
        "norm": _norm(d_model).spec(),
        "w_in": matrix((width, d_model), (None, "embed")),
        "mixer_norm": _norm(width).spec(),
        "mixer": mixer_of(width, state_dim).spec(),
        "w_out": Param((width,), (None,), FanIn(width)),
        "b_out": Param((), (), ZEROS),
    }


def _norm(width: int) -> RMSNorm:
    return RMSNorm(dim=width)


register_dataclass(RecurrentConfidence, ["params"], ["width", "state_dim"])
