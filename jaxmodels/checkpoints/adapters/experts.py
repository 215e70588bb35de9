"""Low-rank pairs of all experts of a layer at once, as `peft` adapts the stacked weights of `transformers`.

There a layer's experts are two weights: `gate_up_proj`, the outputs of the gate before those that it gates,
and `down_proj`. Their pairs are stored under one name, ``...experts``, with ``.base_layer`` once for each
further pair; which is which shows in the shapes. The pair of ``E`` experts is ``lora_A`` [E * rank, inputs],
expert by expert, and ``lora_B`` [outputs, rank * E], rank by rank. A family's table has a tensor for each
expert and half, or the two weights with inputs before outputs.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from jaxmodels.checkpoints.adapters.edits import LowRank
from jaxmodels.checkpoints.adapters.reader import Adapter
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.names import TableNames
from jaxmodels.models.family import Tensor

_MODULE = "experts"
# The weights of transformers, and the parameters of ours that their outputs are.
_HALVES = {"gate_up_proj": ("w_gate", "w_up"), "down_proj": ("w_down",)}


def are_experts(module: str, parts: Mapping[str, np.ndarray]) -> bool:
    """Whether a module of an adapter, without ``.base_layer``, is the experts of a layer."""
    return module.rsplit(".", 1)[-1] == _MODULE and "down" in parts and "up" in parts


def expert_edits(
    tensors: Mapping[str, Tensor],
    names: TableNames,
    adapter: Adapter,
    module: str,
    parts: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, LowRank]]:
    """What one pair of a layer's experts changes: names of the table and the change of each.

    Raises:
        CheckpointError: the pair fits none of the weights of the layer's experts.
    """
    down, up = parts["down"], parts["up"]
    for half, ours in _HALVES.items():
        rank = adapter.settings.rank_of(f"{module}.{half}")
        scale = adapter.settings.scale_of(f"{module}.{half}")
        stacked = tensors.get(names.in_table(f"{module}.{half}"))
        if stacked is not None:
            count, inputs, outputs = stacked.shape
            by_expert: list[list[Tensor]] = []
        else:
            by_expert = _by_expert(tensors, names.layer(f"{module}.{half}"), ours)
            count, inputs = len(by_expert), by_expert[0][0].shape[1] if by_expert else 0
            outputs = sum(tensor.shape[0] for tensor in by_expert[0]) if by_expert else 0
        if down.shape != (count * rank, inputs) or up.shape != (outputs, rank * count):
            continue
        downs = down.reshape(count, rank, inputs)
        ups = np.moveaxis(up.reshape(outputs, rank, count), -1, 0)
        if stacked is not None:
            yield stacked.name, LowRank(downs, ups, scale, inputs_first=True, magnitudes=None)
        for expert, halves in enumerate(by_expert):
            shares = np.split(ups[expert], len(halves))
            for tensor, share in zip(halves, shares, strict=True):
                yield tensor.name, LowRank(downs[expert], share, scale, inputs_first=False, magnitudes=None)
        return
    raise CheckpointError(
        f"{adapter.file}: {module!r} has a low-rank pair of shapes {list(down.shape)} and {list(up.shape)}, "
        "which fits no weight of the experts of that layer"
    )


def _by_expert(tensors: Mapping[str, Tensor], layer: int | None, ours: tuple[str, ...]) -> list[list[Tensor]]:
    """For each expert of a layer the tensors that are some of our parameters; none without experts."""
    columns = [
        sorted(
            (part.expert, tensor.name)
            for tensor in tensors.values()
            for part in tensor.parts
            if part.expert is not None and part.row.ours == f"blocks/{layer}/ffn/experts/{name}"
        )
        for name in ours
    ]
    return [[tensors[name] for _, name in row] for row in zip(*columns, strict=True)]
