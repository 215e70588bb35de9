"""A block over image and text whose weights serve both."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from jaxmodels.layers.condition import Condition
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Window
from jaxmodels.models.denoisers.joint_block import JointBlock
from jaxmodels.models.modules import COMPUTE, Modules


@dataclass(frozen=True, kw_only=True)
class TiedBlock:
    """A `JointBlock` whose stream and context have the same weights, as if they were one sequence: the single
    block of HiDream.

    Where the block ends the context, that is shifted and scaled by the first two of the stream's modulations.

    Raises:
        ValueError: the layers of stream and context differ, or the block has a second attention.
    """

    joint: JointBlock

    def __post_init__(self) -> None:
        joint = self.joint
        pairs: dict[str, tuple[Any, Any]] = {"mixer": (joint.mixer.stream, joint.mixer.context)}
        if joint.gives_context:
            pairs["ffn"] = (joint.ffn, joint.context_ffn)
            pairs["modulation"] = (joint.modulation, joint.context_modulation)
        for name, (ours, theirs) in pairs.items():
            if ours != theirs:
                raise ValueError(
                    f"TiedBlock: {name} of stream and context must be alike, got {ours}, {theirs}"
                )
        if joint.second is not None:
            raise ValueError(f"TiedBlock: a second attention has no place, got {joint.second}")

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        return self.joint.module_names

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it."""
        return self.joint.gives_context

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return self.joint.ropes

    def spec(self) -> ParamTree:
        tree = self.joint.spec()
        return {
            "norm": tree["norm"],
            "modulation": tree["modulation"],
            "mixer": self.joint.mixer.stream.spec(),
            "ffn": tree["ffn"],
        }

    def flops(self, tokens: int, context: int) -> int:
        """FLOPs for `tokens` of an image and `context` tokens of a text."""
        return self.joint.flops(tokens, context) - self.joint.context_modulation.flops()

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: Float[Array, "B T D"],
        condition: Condition,
        window: Window,
        context_window: Window,
        modules: Modules = COMPUTE,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B T D"] | None]:
        """See `JointBlock.forward`."""
        both = {
            **params,
            "context_modulation": params["modulation"],
            "mixer": {"stream": params["mixer"], "context": params["mixer"]},
            "context_ffn": params["ffn"],
        }
        return self.joint.forward(both, x, context, condition, window, context_window, modules)
