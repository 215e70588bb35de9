"""Modules for multi-token prediction: beside the model that was trained with them, or in a directory alone.

Beside the model they are further tensors of its checkpoint, which `placement.place` sets aside. Alone they
have the same names, and ``config.json`` describes a model of as many layers as the target has, whose
`model_type` says how they are named, and whose architecture that they are modules.
"""

from collections.abc import Mapping
from typing import Any

from jax.typing import DTypeLike

from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    read_head_params,
    write_head_params,
)
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import read_params
from jaxmodels.checkpoints.registered import place_registered
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.decoding.drafters.mtp import MTP
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp import MTPHead
from jaxmodels.models.draft_heads.mtp_layouts import LAYOUTS, MTPLayout
from jaxmodels.models.families import config_to_hf, read_hf_config
from jaxmodels.models.hf_config import ConfigError

NAME = "mtp"


def announced_head(config: Decoder, values: Mapping[str, Any]) -> MTPHead | None:
    """The head that a model's configuration announces by a key of its own, None where it has no such key.

    Args:
        config: the model.
        values: the keys of its ``config.json``, those that do not describe the model at least.

    Raises:
        ConfigError: the modules are of a kind that the model does not have.
    """
    layout = LAYOUTS.get(str(config.family))
    return None if layout is None or layout.count_key not in values else layout.read_head(config, values)


def read_mtp(
    config: Decoder, values: Mapping[str, Any], tensors: TensorReader | None, dtype: DTypeLike
) -> tuple[MTPHead, Params]:
    """The head of a model and its parameters.

    Args:
        config: the model.
        values: the keys of its ``config.json``, those that do not describe the model at least.
        tensors: what its checkpoint holds beyond the model, None where that is nothing.
        dtype: of the parameters.

    Raises:
        CheckpointError: there are no modules, or not all of one; a tensor does not fit, or is of none. The
            message names the family, and the key or a tensor.
    """
    try:
        layout, head = _head_of(config, values)
    except ConfigError as error:
        raise CheckpointError(f"MTP: {error}") from error
    table = layout.table(config, head)
    expected = table.tensors(head)
    if tensors is None:
        given = values.get(layout.count_key)
        said = (
            f"no key {layout.count_key!r} is given" if given is None else f"{layout.count_key!r} is {given}"
        )
        raise CheckpointError(
            f"MTP: the checkpoint of this {config.family} model holds no weights of modules for multi-token "
            f"prediction, such as {next(iter(expected))!r} ({said}); load one that does"
        )
    placed = place_registered(table, head, tensors, values)
    return head, read_params(expected, head.spec(), placed, dtype)


def _head_of(config: Decoder, values: Mapping[str, Any]) -> tuple[MTPLayout, MTPHead]:
    """The layout of a model's modules, and its head.

    Raises ConfigError where it can have none or says that it has none.
    """
    layout = LAYOUTS.get(str(config.family))
    if layout is None:
        raise ConfigError(
            f"{config.family} models have no modules for multi-token prediction in a known form; those of "
            f"{', '.join(sorted(LAYOUTS))} have"
        )
    head = layout.read_head(config, values)
    if head is None:
        raise ConfigError(
            f"this {config.family} model has no modules for multi-token prediction: {layout.count_key!r} of "
            "its configuration is 0"
        )
    return layout, head


def read(stored: Stored) -> MTP:
    config, _ = read_hf_config(stored.values)
    layout, head = _head_of(config, stored.values)
    return MTP(head=head, params=read_head_params(layout.table(config, head), head, stored))


def write(drafter: MTP) -> Written:
    head, params = drafter.head, drafter.params
    assert head is not None and params is not None
    layout = LAYOUTS.get(str(head.family))
    if layout is None:
        raise ConfigError(
            f"MTP: head.family is {head.family!r}, which has no published form of modules; those of "
            f"{', '.join(sorted(LAYOUTS))} have"
        )
    last = head.modules[-1]
    # A model whose layers are all as the modules' are: it says what these are.
    config = Decoder(
        vocab_size=head.vocab_size,
        d_model=head.d_model,
        blocks=(last.blocks[-1],) * head.num_layers,
        final_norm=last.final_norm,
        family=head.family,
    )
    values = {
        **config_to_hf(config),
        "architectures": [layout.architecture],
        layout.count_key: len(head.modules),
    }
    if layout.read_head(config, values) != head:
        raise ConfigError(
            f"MTP: a {head.family} configuration cannot express these modules without their model"
        )
    return Written(values=values, tensors=write_head_params(layout.table(config, head), head, params))


LAYOUT = Layout(name=NAME, read=read, write=write)
