"""Which of a checkpoint's tensors fill which parameters, decided from names, shapes and dtypes alone.

All of it happens before a parameter is allocated, and the number of layers is compared before the model is
built.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.leftovers import describe, is_other_sense, predicts_further_tokens
from jaxmodels.checkpoints.names import TableNames, find_names
from jaxmodels.checkpoints.safetensors_io import TensorInfo, TensorReader, missing_tensor_message
from jaxmodels.checkpoints.stacked import single_experts
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES, find_family
from jaxmodels.models.family import Tensor
from jaxmodels.models.hf_config import ConfigError

LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
FURTHER_TOKENS_KEY = "num_nextn_predict_layers"

# How many entries of two tensors are compared at a time.
_STRETCH = 2**22


@dataclass(frozen=True, kw_only=True)
class TensorView:
    """A `TensorReader` of some tensors of another, under names of its own.

    Attributes:
        tensors: the other.
        names: the name there by the name here, in the order in which reading is fastest.
    """

    tensors: TensorReader
    names: Mapping[str, str]

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor by its name here; each keeps its stored name for messages."""
        return {name: self.tensors.infos[stored] for name, stored in self.names.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`; see `TensorReader`."""
        return self.tensors.read(self.names[name])


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a checkpoint's tensors are.

    Attributes:
        config: the model, with a head of its own where the checkpoint stores one that is not the embedding.
        tensors: those that fill the parameters, by their names in the family's table.
        extra: those of modules that predict further tokens, under the names in which they are saved; None if
            there are none.
    """

    config: Decoder
    tensors: TensorReader
    extra: TensorReader | None


def check_layers(values: Mapping[str, Any], tensors: TensorReader, where: str) -> None:
    """Compares the number of layers that a configuration names with the layers that are stored.

    Args:
        values: the contents of ``config.json``.
        tensors: the checkpoint.
        where: the file that `values` are from.

    Raises:
        CheckpointError: layers are missing or too many, and the message names the key and a tensor; or no
            family has the configuration's `model_type`.
    """
    key = next((key for key in LAYER_KEYS if type(values.get(key)) is int), None)
    try:
        names = find_names(find_family(values), tensors.infos)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    stored: dict[int, str] = {}
    for name in tensors.infos:
        layer = names.layer(name)
        if layer is not None:
            stored.setdefault(layer, name)
    if key is None or values[key] < 1 or not stored:
        return
    count, further, last = values[key], _further_layers(values), max(stored)
    file = tensors.infos[stored[last]].file.name
    if last + 1 < count:
        raise CheckpointError(
            f"{where}: {key!r} is {count}, but {file} holds layers up to number {last} alone, such as "
            f"{stored[last]!r}; the configuration and the weights are of different models"
        )
    if last + 1 > count + further:
        begins = f"{FURTHER_TOKENS_KEY!r} is {further}" if further else f"no {FURTHER_TOKENS_KEY!r} is given"
        raise CheckpointError(
            f"{where}: {key!r} is {count} and {begins}, but {file} holds {stored[last]!r} of layer {last}; "
            "the configuration and the weights are of different models"
        )


def place(
    config: Decoder, tensors: TensorReader, values: Mapping[str, Any], *, text_only: bool = False
) -> Placed:
    """Finds the place of every tensor of a checkpoint.

    Warns where the configuration ties the head to the embedding and the checkpoint stores another head: that
    one is kept.

    Args:
        config: the model that `values` describe.
        tensors: the checkpoint.
        values: the contents of ``config.json``.
        text_only: leave out the tensors of vision and audio parts.

    Raises:
        CheckpointError: a tensor is missing, has a wrong shape or no floating dtype, is stored twice, or is
            not part of the model.
    """
    tensors = single_experts(tensors, config)
    names = find_names(FAMILIES[str(config.family)], tensors.infos)
    in_table: dict[str, str] = {}
    for stored in tensors.infos:
        name = names.in_table(stored)
        if name in in_table:
            raise CheckpointError(
                f"{tensors.infos[stored].file}: tensors {in_table[name]!r} and {stored!r} are both "
                f"{name!r} of a {config.family} model; one of them must go"
            )
        in_table[name] = stored
    config = _settle_head(config, names, in_table, tensors)
    expected = names.family.tensors(config)
    extra = dict(_extra(names, len(config.blocks), tensors, values))
    skipped = {
        name
        for name, stored in in_table.items()
        if names.family.is_unused(name) or (text_only and _is_not_text(stored, names))
    }
    carried = set(extra.values())
    left = {
        name: stored
        for name, stored in in_table.items()
        if name not in expected and name not in skipped and stored not in carried
        if not _adds_nothing(stored, tensors)
    }
    _check_complete(names, expected, in_table, tensors, left)
    filled = {name: stored for name, stored in in_table.items() if name in expected}
    for name, stored in filled.items():
        check_tensor(tensors.infos[stored], expected[name], values)
    return Placed(
        config=config,
        tensors=TensorView(tensors=tensors, names=filled),
        extra=TensorView(tensors=tensors, names=extra) if extra else None,
    )


def _adds_nothing(stored: str, tensors: TensorReader) -> bool:
    """Whether a tensor is a bias of zeros, which AutoGPTQ stores for layers that have no bias."""
    return stored.endswith(".bias") and not tensors.read(stored).any()


def _settle_head(
    config: Decoder, names: TableNames, in_table: dict[str, str], tensors: TensorReader
) -> Decoder:
    """The model with the head that the checkpoint stores; `in_table` keeps one tensor for a tied pair."""
    embedding, head = names.family.embedding_name, names.family.head_name
    if not config.tie_embeddings or head not in in_table:
        return config
    if embedding not in in_table:  # one of the two is enough, whichever it is
        in_table[embedding] = in_table.pop(head)
        return config
    if _equal(tensors, in_table[embedding], in_table[head]):
        del in_table[head]
        return config
    warnings.warn(
        f"{tensors.infos[in_table[head]].file}: the configuration ties the head to the embedding, but "
        f"{in_table[head]!r} is stored and differs from {in_table[embedding]!r}; the stored head is kept, so "
        "that the model is not tied and is saved as such",
        stacklevel=4,
    )
    return replace(config, tie_embeddings=False)


def _equal(tensors: TensorReader, first: str, second: str) -> bool:
    """Whether two tensors hold the same numbers."""
    if tensors.infos[first].shape != tensors.infos[second].shape:
        return False
    a, b = tensors.read(first).reshape(-1), tensors.read(second).reshape(-1)
    if a.dtype == b.dtype:  # as bytes, in which NaN is equal to itself
        a, b = a.view(np.uint8), b.view(np.uint8)
    for start in range(0, a.size, _STRETCH):
        one, other = a[start : start + _STRETCH], b[start : start + _STRETCH]
        if a.dtype != b.dtype:
            one, other = one.astype(np.float32), other.astype(np.float32)
        if not np.array_equal(one, other):
            return False
    return True


def _further_layers(values: Mapping[str, Any]) -> int:
    """How many layers behind the last predict further tokens."""
    count = values.get(FURTHER_TOKENS_KEY)
    return count if type(count) is int and count > 0 else 0


def _extra(
    names: TableNames, layers: int, tensors: TensorReader, values: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Names to save under and stored names of all tensors of modules that predict further tokens."""
    numbers = range(layers, layers + _further_layers(values))
    for stored in tensors.infos:
        if predicts_further_tokens(stored):
            yield stored, stored
        elif predicts_further_tokens(stored.removeprefix(names.prefix)) or names.layer(stored) in numbers:
            moved = names.moved(stored)
            if not names.family.is_unused(moved):
                yield moved, stored


def _is_not_text(stored: str, names: TableNames) -> bool:
    """Whether a tensor belongs to a part that a load of the text alone leaves out."""
    if is_other_sense(stored):
        return True
    # Beside a language model that has a name of its own, everything is of another part.
    beside = "language_model" in names.prefix and not stored.startswith(names.prefix)
    return beside and describe(stored) is None


def _check_complete(
    names: TableNames,
    expected: Mapping[str, Tensor],
    in_table: Mapping[str, str],
    tensors: TensorReader,
    left: Mapping[str, str],
) -> None:
    """Raises `CheckpointError` for tensors that are missing or are not part of the model."""
    described = {stored: describe(stored) for stored in left.values()}
    known = next((stored for stored, what in described.items() if what), None)
    if known is not None:
        info = tensors.infos[known]
        raise CheckpointError(
            f"{info.file}: tensor {known!r} of shape {list(info.shape)} is {described[known]}"
        )
    for name in expected:
        if name in in_table:
            continue
        if name == names.family.head_name:
            places = ", ".join(sorted({str(info.file) for info in tensors.infos.values()})[:3])
            raise CheckpointError(
                f"{places}: no tensor {name!r}: this is a base model, saved without its head, and the "
                "configuration does not tie the head to the embedding; load the model for causal language "
                "modelling that it is the base of, or set tie_word_embeddings to true if it shares them"
            )
        raise CheckpointError(missing_tensor_message(name, tensors.infos))
    for stored in left.values():
        info = tensors.infos[stored]
        raise CheckpointError(
            f"{info.file}: tensor {stored!r} of shape {list(info.shape)} is not part of the model that the "
            f"configuration describes (family {names.family.model_type!r}); refusing to ignore it"
        )


def check_tensor(info: TensorInfo, tensor: Tensor, values: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` where a stored tensor cannot fill its parameters."""
    if tuple(info.shape) != tensor.shape:
        raise CheckpointError(
            f"{info.file}: tensor {info.name!r} has shape {list(info.shape)}, "
            f"the configuration asks for {list(tensor.shape)}{_keys_behind(info, tensor, values)}"
        )
    try:
        floating = jnp.issubdtype(jnp.dtype(info.dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise CheckpointError(
            f"{info.file}: tensor {info.name!r} has dtype {info.dtype}, but weights are floating-point; "
            "integers are read only where quantization_config in the configuration says what they mean"
        )


def _keys_behind(info: TensorInfo, tensor: Tensor, values: Mapping[str, Any]) -> str:
    """The keys of the configuration that have the sizes that a stored tensor does not have, in brackets."""
    if len(info.shape) != len(tensor.shape):
        return ""
    wrong = {asked for found, asked in zip(info.shape, tensor.shape, strict=True) if found != asked}
    keys = [f"{key!r} is {value}" for key, value in values.items() if type(value) is int and value in wrong]
    return f" ({', '.join(keys)})" if keys else ""
