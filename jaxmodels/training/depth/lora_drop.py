"""Training of LoRA-Drop's adapters."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.decoding.depth.lora_drop import REUSED, LoRADrop, Reused
from jaxmodels.layers.spec import ONES, ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Unread
from jaxmodels.models.depth_forward import forward_by_depth
from jaxmodels.training.depth.objective import Frozen, divergence


@dataclass(frozen=True, kw_only=True)
class LoRADropTraining:
    """A `LoRADrop` policy, and the training of its adapters and shares beside a frozen model.

    Each text is read by the policy itself, whose distributions are drawn to those of the model. LoRA-Drop's
    authors train the model as well, on the text's own tokens.

    Attributes:
        dropped, period, reused, unread: see `LoRADrop`.
        rank: of the corrections.

    Raises:
        ValueError: a field is out of range; when run, a block that the model does not have.
    """

    dropped: tuple[int, ...]
    period: int = 8
    rank: int = 8
    reused: Reused = "output"
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        if not isinstance(self.dropped, list | tuple):
            raise ValueError(f"LoRADropTraining: dropped must be numbers of blocks, got {self.dropped!r}")
        object.__setattr__(self, "dropped", tuple(self.dropped))
        whole("LoRADropTraining: period", self.period, low=1)
        whole("LoRADropTraining: rank", self.rank, low=1)
        check_unread(self.unread)
        if self.reused not in REUSED:
            raise ValueError(f"LoRADropTraining: reused must be 'output' or 'update', got {self.reused!r}")

    def spec(self, model: Decoder) -> ParamTree:
        """Corrections begin at 0. Of outputs all is reused at first, as the authors do; of updates nothing,
        so that a block is passed by."""
        blocks, width = len(self.dropped), model.d_model
        return {
            "down": Param((blocks, self.rank, width), ("layers", None, "embed"), FanIn(width)),
            "up": Param((blocks, width, self.rank), ("layers", "embed", None), ZEROS),
            "share": Param((blocks,), ("layers",), ONES if self.reused == "output" else ZEROS),
        }

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> Int[np.ndarray, "N S"]:
        return windows

    def loss(
        self, frozen: Frozen, params: Params, batch: Int[Array, "B S"], key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        policy = self.policy(frozen.model, params)
        logits, _ = forward_by_depth(frozen.model, frozen.params, batch, policy)
        nats = divergence(frozen.logits(batch), logits)
        return nats, nats

    def policy(self, model: Decoder, params: Params) -> LoRADrop:
        return LoRADrop(
            down=params["down"],
            up=params["up"],
            share=params["share"],
            dropped=self.dropped,
            period=self.period,
            scale=float(self.rank),
            reused=self.reused,
            unread=self.unread,
        )
