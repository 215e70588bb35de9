"""Experts that a checkpoint stores as one stack per layer, read as the single ones of the family's table.

Qwen3-VL's mixtures hold ``experts.gate_up_proj`` [E, D, 2 F], gate before up, and ``experts.down_proj``
[E, F, D], where those of Qwen3 hold ``experts.{e}.gate_proj.weight`` [F, D] and so on. The modules of
transformers 5 have the last two axes the other way round, and so has what is written from them without
having been read; which way it is shows in the sizes of the two stacks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxmodels.checkpoints.safetensors_io import TensorInfo, TensorReader
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES

_STACK = re.compile(r"(.*\.experts\.)(gate_up_proj|down_proj)")
_SINGLE = ".experts.{e}.gate_proj.weight"


@dataclass(frozen=True)
class Share:
    """One expert's matrix in a stack: rows `start` to `start` + `size` of [out, in]."""

    stack: str
    expert: int
    start: int
    size: int
    turned: bool


@dataclass(frozen=True)
class SingleExperts:
    """A `TensorReader` made by `single_experts`; `shares` are those of its tensors that are in stacks."""

    stored: TensorReader
    infos: Mapping[str, TensorInfo]
    shares: Mapping[str, Share]
    _last: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`; see `TensorReader`. The last stack is kept for its other experts."""
        share = self.shares.get(name)
        if share is None:
            return self.stored.read(name)
        if share.stack not in self._last:
            self._last.clear()
            self._last[share.stack] = self.stored.read(share.stack)
        matrix = self._last[share.stack][share.expert]
        matrix = matrix.T if share.turned else matrix
        return np.array(matrix[share.start : share.start + share.size], order="C")


def single_experts(tensors: TensorReader, config: Decoder) -> TensorReader:
    """The same tensors, with the matrices of single experts in place of stacks.

    Nothing changes where the table of the model's family has no single experts, or the checkpoint no stacks.
    """
    table = FAMILIES[str(config.family)].weights
    if not any(row.theirs.endswith(_SINGLE) for row in table):
        return tensors
    infos: dict[str, TensorInfo] = {}
    shares: dict[str, Share] = {}
    for name, info in tensors.infos.items():
        stack = _STACK.fullmatch(name)
        if stack is None or len(info.shape) != 3:
            infos[name] = info
            continue
        turned = _is_turned(tensors.infos, stack[1], config.d_model)
        for single, share in _shares(name, stack[1], stack[2], info, turned):
            size, width = share.size, info.shape[1 if share.turned else 2]
            infos[single] = TensorInfo(name=name, shape=(size, width), dtype=info.dtype, file=info.file)
            shares[single] = share
    return SingleExperts(tensors, infos, shares) if shares else tensors


def _is_turned(infos: Mapping[str, TensorInfo], front: str, d_model: int) -> bool:
    """Whether the stacks hold [in, out] as the published files do, which also counts where both would fit."""
    down, both = infos.get(front + "down_proj"), infos.get(front + "gate_up_proj")
    as_published = [
        down is None or down.shape[2:] == (d_model,),
        both is None or both.shape[1:2] == (d_model,),
    ]
    return all(as_published)


def _shares(name: str, front: str, kind: str, info: TensorInfo, turned: bool) -> list[tuple[str, Share]]:
    """The single experts' matrices in a stack, each by its name."""
    names = ("down_proj",) if kind == "down_proj" else ("gate_proj", "up_proj")
    experts, first, second = info.shape
    size = (second if turned else first) // len(names)
    return [
        (f"{front}{expert}.{name}.weight", Share(info.name, expert, i * size, size, turned))
        for expert in range(experts)
        for i, name in enumerate(names)
    ]
