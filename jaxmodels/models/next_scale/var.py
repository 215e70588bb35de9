"""VAR: a transformer over the codes of an image's scales, all codes of a scale at once."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.layers.condition import AdaptiveNorm, ProjectedModulation
from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, FanIn, Normal, Param, Params, ParamTree, unflatten, walk
from jaxmodels.models.block import ConditionedBlock, DecoderBlock
from jaxmodels.models.cache import Cache, Pending
from jaxmodels.models.trunk import Trunk


@dataclass(frozen=True, kw_only=True)
class VAR:
    """The network of https://arxiv.org/abs/2404.02905, and M-VAR's of https://arxiv.org/abs/2411.10433.

    The first scale is shown the class; each further one is shown, at its places, the latents that the scales
    before it add up to (`Pyramid.shown`). The class is the condition of all blocks as well. Keys have a bias
    only because the published files hold one, of zeros; it is not trained.

    Attributes:
        sides: codes in each row and column of each scale.
        num_codes: entries of the codebook.
        code_width: numbers of an entry.
        num_classes: classes are numbered from 0; `num_classes` stands for none.
        trunk: the blocks, whose mask is that of the scales.
        shared_modulation: makes of the class what all blocks go by; None where each makes its own.
        head_norm: in front of the head, by the class.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: a block reads no condition, or one of another width than is made.
    """

    sides: tuple[int, ...]
    num_codes: int
    code_width: int
    num_classes: int
    trunk: Trunk
    shared_modulation: ProjectedModulation | None = None
    head_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        made = self.shared_modulation
        width = self.d_model if made is None else len(made.parts) * made.d_model
        for i, block in enumerate(self.blocks):
            if not isinstance(block, ConditionedBlock) or block.condition_width != width:
                raise ValueError(f"VAR: block {i} must read a condition of width {width}")

    @property
    def blocks(self) -> tuple[DecoderBlock, ...]:
        """Those of the trunk."""
        return self.trunk.blocks

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return self.trunk.d_model

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each scale."""
        return tuple(side**2 for side in self.sides)

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        d, std = self.d_model, (1 / self.d_model / 3) ** 0.5

        def rows(count: int, axis: str | None = None) -> ParamTree:
            return {"weight": Param((count, d), (axis, "embed"), Normal(std))}

        head = Param((self.num_codes, d), ("vocab", "embed"), Normal(0.02 * std))
        tree: ParamTree = {
            "in": {
                "w": Param((d, self.code_width), ("embed", None), FanIn(self.code_width)),
                "b": Param((d,), ("embed",), ZEROS),
            },
            "classes": rows(self.num_classes + 1),
            "start": rows(self.sizes[0]),
            "positions": rows(sum(self.sizes)),
            "levels": rows(len(self.sides)),
            "blocks": self.trunk.spec(),
            "head_norm": self.head_norm.spec(),
            "head": {"weight": head, "bias": Param((self.num_codes,), ("vocab",), ZEROS)},
        }
        if self.shared_modulation is not None:
            tree["shared_modulation"] = self.shared_modulation.spec()
        return _with_frozen_key_biases(tree)

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, without the head; 0 counts the weights alone."""
        return self.trunk.flops_per_token(context)

    def condition(self, params: Params, classes: Int[Array, "B"]) -> Float[Array, "B D"]:
        """What blocks and head go by."""
        made: Array = params["classes"]["weight"][classes]
        return made

    def begin(self, params: Params, condition: Float[Array, "B D"]) -> Float[Array, "B N D"]:
        """What the first scale is shown."""
        return condition[:, None] + params["start"]["weight"] + self._places(params, 0)

    def embed(self, params: Params, shown: Float[Array, "B N C"], scale: int) -> Float[Array, "B N D"]:
        """What a scale but the first is shown, of the latents `shown` at its places."""
        shown = shown.astype(params["in"]["w"].dtype)
        return linear(shown, params["in"]["w"]) + params["in"]["b"] + self._places(params, scale)

    def logits(
        self, params: Params, hidden: Float[Array, "B S D"], condition: Float[Array, "B D"]
    ) -> Float[Array, "B S V"]:
        """The scores of all codes, f32."""
        normed = self.head_norm(params["head_norm"], hidden, condition)
        head = params["head"]
        return linear(normed, head["weight"], jnp.float32) + head["bias"].astype(jnp.float32)

    def forward(
        self, params: Params, classes: Int[Array, "B"], shown: Float[Array, "B M C"]
    ) -> Float[Array, "B L V"]:
        """The scores of the codes of all scales. Differentiable.

        Args:
            classes: of each image; `num_classes` for none.
            shown: what all scales but the first are shown, see `Pyramid.inputs`.

        Raises:
            ValueError: `shown` has another number of places or another width.
        """
        later = (sum(self.sizes[1:]), self.code_width)
        if shown.shape[1:] != later:
            raise ValueError(f"shown: expected {['B', *later]}, got {list(shown.shape)}")
        condition = self.condition(params, classes)
        cuts = list(itertools.accumulate(self.sizes[1:]))[:-1]
        parts = [self.begin(params, condition)]
        parts += [self.embed(params, part, i + 1) for i, part in enumerate(jnp.split(shown, cuts, axis=1))]
        x = jnp.concatenate(parts, axis=1)
        hidden = self.trunk.forward(params["blocks"], x, self._for_blocks(params, condition))
        return self.logits(params, hidden, condition)

    def init_cache(self, batch: int, dtype: DTypeLike = jnp.float32) -> Cache:
        """Empty histories with room for all scales."""
        return self.trunk.init_cache(batch, sum(self.sizes), dtype)

    def peek(
        self, params: Params, x: Float[Array, "B N D"], cache: Cache, condition: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B N V"], Pending]:
        """The scores of the codes of one scale, behind the scales in `cache`, which is spent. x: of `begin`
        or `embed`."""
        hidden, pending = self.trunk.peek(params["blocks"], x, cache, self._for_blocks(params, condition))
        return self.logits(params, hidden, condition), pending

    def commit(self, pending: Pending) -> Cache:
        """The cache once the scale is history."""
        return self.trunk.commit(pending)

    def _for_blocks(self, params: Params, condition: Float[Array, "B D"]) -> Float[Array, "B C"]:
        made = self.shared_modulation
        if made is None:
            return condition
        return made.project(params["shared_modulation"], condition).reshape(condition.shape[0], -1)

    def _places(self, params: Params, scale: int) -> Float[Array, "N D"]:
        first = sum(self.sizes[:scale])
        rows = params["positions"]["weight"][first : first + self.sizes[scale]]
        return rows + params["levels"]["weight"][scale]


def _with_frozen_key_biases(tree: ParamTree) -> ParamTree:
    leaves: dict[str, Any] = dict(walk(tree))
    for path, param in leaves.items():
        if path.endswith("mixer/b_k"):
            leaves[path] = replace(param, frozen=True)
    return unflatten(leaves, tree)
