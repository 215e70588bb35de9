"""Several mixers side by side on the same input, their outputs added."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.linear import scaled
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Mixer, Window, ropes_of


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One mixer of a `SumMixer`: its parameters are found under `name`, its input is multiplied by `in_scale`
    and its output by `out_scale`."""

    name: str
    mixer: Mixer
    in_scale: float = 1.0
    out_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SumMixer:
    """``sum_j out_scale_j * mixer_j(in_scale_j * x)``, as attention and state space layers in Falcon-H1.

    Its states, and what is held and pending of a window, are tuples with one entry per branch.

    Raises:
        ValueError: there is no branch, or two have one name.
    """

    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        names = [branch.name for branch in self.branches]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"branches must have different names, and be at least one, got {names}")

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(*(branch.mixer for branch in self.branches))

    def spec(self) -> ParamTree:
        return {branch.name: branch.mixer.spec() for branch in self.branches}

    def state_spec(self, batch: int, capacity: int) -> tuple[Any, ...]:
        return tuple(branch.mixer.state_spec(batch, capacity) for branch in self.branches)

    def parts(self, state: tuple[Any, ...]) -> tuple[tuple[Mixer, Any], ...]:
        """The branches' mixers with their states."""
        return tuple((branch.mixer, part) for branch, part in zip(self.branches, state, strict=True))

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        return sum(branch.mixer.flops_per_token(context) for branch in self.branches)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        return self._sum(
            branch.mixer.forward(params[branch.name], scaled(x, branch.in_scale), window)
            for branch in self.branches
        )

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: tuple[Any, ...], window: Window
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        written = [
            branch.mixer.write(params[branch.name], scaled(x, branch.in_scale), part, window)
            for branch, part in zip(self.branches, state, strict=True)
        ]
        return tuple(held for held, _ in written), tuple(pending for _, pending in written)

    def read(
        self, params: Params, held: tuple[Any, ...], pending: tuple[Any, ...], window: Window
    ) -> Float[Array, "B S D"]:
        return self._sum(
            branch.mixer.read(params[branch.name], held_part, pending_part, window)
            for branch, held_part, pending_part in zip(self.branches, held, pending, strict=True)
        )

    def commit(
        self,
        pending: tuple[Any, ...],
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> tuple[Any, ...]:
        return tuple(
            branch.mixer.commit(part, n, path) for branch, part in zip(self.branches, pending, strict=True)
        )

    def _sum(self, outputs: Iterable[Float[Array, "B S D"]]) -> Float[Array, "B S D"]:
        pairs = zip(self.branches, outputs, strict=True)
        return functools.reduce(jnp.add, [scaled(y, branch.out_scale) for branch, y in pairs])
