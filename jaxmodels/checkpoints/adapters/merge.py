"""Adapters merged into parameters.

An adapter names the modules of `transformers`; a family's table says which of our parameters their tensors
are. Each tensor that an adapter changes is laid out as it is in a checkpoint, changed, and read back: the
same code handles every family, fused and split projections included.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxmodels.checkpoints.adapters.edits import LowRank, Replace, ReplaceRows, Shift
from jaxmodels.checkpoints.adapters.experts import are_experts, expert_edits
from jaxmodels.checkpoints.adapters.reader import Adapter
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import TensorEdit, edit_leaves
from jaxmodels.checkpoints.names import TableNames, find_names
from jaxmodels.layers.spec import Params, unflatten
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES
from jaxmodels.models.family import Tensor

_BASE = ".base_layer"


def merged(
    config: Decoder, leaves: dict[str, jax.Array], adapters: Sequence[Adapter]
) -> tuple[Decoder, Params]:
    """A model with adapters in its weights, each merged into what those before it made.

    An embedding that is tied to the head is untied where the adapter changes one of the two alone, as it was
    while the adapter was trained.

    Args:
        config: the model.
        leaves: its parameters by path. Those that change are replaced in this dictionary, so that nothing is
            held twice where the caller keeps no other reference.
        adapters: what to merge.

    Returns:
        The model and its parameters; the leaves that do not change are the same arrays.

    Raises:
        CheckpointError: an adapter has a tensor that the model lacks, or one of another shape.
    """
    for adapter in adapters:
        config = _merge(config, leaves, adapter)
    return config, unflatten(leaves, config.spec())


def _merge(config: Decoder, leaves: dict[str, jax.Array], adapter: Adapter) -> Decoder:
    """Merges one adapter into the leaves; gives the model that they are of."""
    family = FAMILIES[str(config.family)]
    names = find_names(family, (f"{module}.weight" for module in adapter.modules))
    own: dict[str, Mapping[str, np.ndarray]] = {}
    wrapped: dict[str, Mapping[str, np.ndarray]] = {}
    experts: list[tuple[str, Mapping[str, np.ndarray]]] = []
    for name, parts in adapter.modules.items():
        module = name.split(_BASE, 1)[0]
        if are_experts(module, parts):
            experts.append((module, parts))
        else:
            (own if module == name else wrapped)[module] = parts
    # What the adapter wraps comes first: it belongs to the base, and to both of a tied pair.
    edit_leaves(config, leaves, _edits(config, names, adapter, wrapped))
    if config.tie_embeddings and _parts_the_pair(names, adapter, own):
        config = _untied(config, leaves)
    edits = _edits(config, names, adapter, own)
    tensors = family.tensors(config)
    for module, parts in experts:
        edits |= {name: [edit] for name, edit in expert_edits(tensors, names, adapter, module, parts)}
    edit_leaves(config, leaves, edits)
    return config


def _edits(
    config: Decoder, names: TableNames, adapter: Adapter, modules: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, list[TensorEdit]]:
    """The changes of each tensor of the family's table."""
    tensors = names.family.tensors(config)
    edits: dict[str, list[TensorEdit]] = {}
    for module, parts in modules.items():
        for kind, edit_of in (("weight", _weight_edits), ("bias", _bias_edits)):
            name = names.in_table(f"{module}.{kind}")
            if config.tie_embeddings and name == names.family.head_name:
                name = names.family.embedding_name
            for edit in edit_of(adapter, module, parts, tensors.get(name)):
                edits.setdefault(name, []).append(edit)
    return edits


def _weight_edits(
    adapter: Adapter, module: str, parts: Mapping[str, np.ndarray], tensor: Tensor | None
) -> Iterator[TensorEdit]:
    if not parts.keys() - {"bias", "shift"}:
        return
    shape = _shape(adapter, f"{module}.weight", tensor)
    if "weight" in parts:
        _check(adapter, f"{module}.weight", parts["weight"].shape, shape)
        yield Replace(parts["weight"])
    if "token_rows" in parts:
        rows = adapter.settings.rows_of(module) or ()
        _check(adapter, f"{module}: rows of tokens", parts["token_rows"].shape, (len(rows), *shape[1:]))
        if any(row >= shape[0] for row in rows):
            raise CheckpointError(
                f"{adapter.file}: token {max(rows)} has an embedding, but {module!r} has {shape[0]}"
            )
        yield ReplaceRows(rows, parts["token_rows"])
    for front in ("", "embedding_"):
        if f"{front}down" in parts or f"{front}up" in parts:
            yield _low_rank(adapter, module, parts, front, shape)


def _bias_edits(
    adapter: Adapter, module: str, parts: Mapping[str, np.ndarray], tensor: Tensor | None
) -> Iterator[TensorEdit]:
    for part, edit in (("bias", Replace), ("shift", Shift)):
        if part not in parts:
            continue
        _check(adapter, f"{module}.{part}", parts[part].shape, _shape(adapter, f"{module}.bias", tensor))
        scale = adapter.settings.scale_of(module) if part == "shift" else 1.0
        yield edit(parts[part] * np.float32(scale))


def _low_rank(
    adapter: Adapter, module: str, parts: Mapping[str, np.ndarray], front: str, shape: tuple[int, ...]
) -> LowRank:
    for part in (f"{front}down", f"{front}up"):
        if part not in parts:
            raise CheckpointError(
                f"{adapter.file}: {module!r} has one half of a low-rank pair without the other"
            )
    down, up = parts[f"{front}down"], parts[f"{front}up"]
    rank = adapter.settings.rank_of(module)
    if down.ndim != 2 or up.ndim != 2:
        raise CheckpointError(
            f"{adapter.file}: {module!r} has a low-rank pair of shapes {list(down.shape)} and "
            f"{list(up.shape)}; those of convolutions are not read, merge the adapter with peft"
        )
    inputs, outputs = down.shape[1], up.shape[0]
    _check(adapter, f"{module}: lora_A", down.shape, (rank, inputs))
    _check(adapter, f"{module}: lora_B", up.shape, (outputs, rank))
    square = adapter.settings.fan_in_fan_out if inputs == outputs else shape == (inputs, outputs)
    inputs_first = square or bool(front)
    magnitudes = parts.get("magnitudes")
    if adapter.settings.use_dora or magnitudes is not None:
        found = () if magnitudes is None else magnitudes.shape
        _check(adapter, f"{module}: lora_magnitude_vector", found, (outputs,))
    product = (inputs, outputs) if inputs_first else (outputs, inputs)
    _check(adapter, f"{module}: the product of its pair", product, shape)
    return LowRank(down, up, adapter.settings.scale_of(module), inputs_first, magnitudes)


def _parts_the_pair(
    names: TableNames, adapter: Adapter, modules: Mapping[str, Mapping[str, np.ndarray]]
) -> bool:
    """Whether the embedding and the head, which are tied, differ in the adapted model."""
    changed = {names.in_table(f"{module}.weight"): parts for module, parts in modules.items()}
    embedding, head = (changed.get(n) for n in (names.family.embedding_name, names.family.head_name))
    if adapter.settings.stays_tied or (embedding is None and head is None):
        return False
    if embedding is not None and head is not None and embedding.keys() == head.keys():
        return not all(np.array_equal(embedding[part], head[part]) for part in embedding)
    if head is None and embedding is not None:
        # Single rows are shared with the head. So is a whole embedding that was saved though not trained.
        trained = names.family.embedding_name.split(".")[-2] in adapter.settings.replaced
        return "embedding_down" in embedding or trained
    return True


def _untied(config: Decoder, leaves: dict[str, jax.Array]) -> Decoder:
    """The model with a head of its own, equal to the embedding."""
    leaves["head/weight"] = leaves["embed/weight"]
    return dataclasses.replace(config, tie_embeddings=False)


def _shape(adapter: Adapter, name: str, tensor: Tensor | None) -> tuple[int, ...]:
    if tensor is None:
        raise CheckpointError(
            f"{adapter.file}: the adapter changes {name!r}, which the model does not have; it was trained "
            f"for {adapter.settings.base or 'another model'}"
        )
    return tensor.shape


def _check(adapter: Adapter, what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        added = "; if tokens were added to it, resize its embeddings with transformers and save it first"
        raise CheckpointError(
            f"{adapter.file}: {what} has shape {list(found)}, the model and the adapter's settings ask for "
            f"{list(expected)}; it was trained for {adapter.settings.base or 'another model'}"
            f"{added if found[1:] == expected[1:] else ''}"
        )
