"""EAGLE-3 as its authors publish it (https://github.com/SafeAILab/EAGLE): one layer, called ``midlayer``.

The configuration is that of a Llama of one layer. Which of the target's layers are read is not written; it
follows from how many there are: those in front of layers 2, L // 2 and L - 3. SGLang's training writes them
as ``eagle_config``, as the numbers of the layers whose output they are.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.checkpoints.draft_heads import eagle3
from jaxmodels.checkpoints.draft_heads.forms import EAGLE3
from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    check_all_read,
    read_head_params,
    target_of,
    write_head_params,
)
from jaxmodels.decoding.drafters.feature_drafter import FeatureDrafter
from jaxmodels.models.draft_heads.eagle3 import Eagle3
from jaxmodels.models.family import Table
from jaxmodels.models.hf_config import ConfigError, ConfigReader

NAME = "eagle3"
LAYERS_KEY = "eagle_aux_hidden_state_layer_ids"
# Keys of the target's, or of serving.
INERT = ("max_window_layers", "max_position_embeddings", "tie_word_embeddings", "use_aux_hidden_state")

TABLE: Table[Eagle3] = Table(
    model_type=NAME,
    weights=tuple(
        replace(row, theirs=row.theirs.replace("layers.{i}.", "midlayer.")) for row in eagle3.WEIGHTS
    ),
    unused=(eagle3.OFFSETS, eagle3.KNOWN),
)


def default_layers(layers: int) -> tuple[int, ...]:
    """The streams that a head reads of a target with so many layers, counted as in `Eagle3`."""
    return 2, layers // 2, layers - 3


def read(stored: Stored) -> FeatureDrafter:
    reader = stored.reader("an EAGLE-3 head")
    vocabulary = reader.positive("vocab_size")
    known = reader.positive_or("draft_vocab_size", vocabulary)
    width = reader.positive("hidden_size")
    before = reader.flag("norm_before_residual", False)
    first, others = eagle3.read_blocks(reader, norm_before_residual=before)
    if others:
        raise ConfigError(f"{reader.name}: key 'num_hidden_layers' must be 1, got {1 + len(others)}")
    head = Eagle3(
        target_vocab_size=vocabulary,
        vocab_size=known,
        target_width=reader.positive_or("target_hidden_size", width),
        d_model=width,
        layers=_read_layers(reader, stored),
        blocks=(first,),
        norm=first.ffn_norm,
        own_embedding=eagle3.EMBEDDING in stored.tensors.infos,
        layout=NAME,
    )
    check_all_read(reader, INERT)
    token_ids = eagle3.read_token_ids(stored, known, vocabulary)
    return FeatureDrafter(head=head, params=read_head_params(TABLE, head, stored), token_ids=token_ids)


def _read_layers(reader: ConfigReader, stored: Stored) -> tuple[int, ...]:
    section = reader.section("eagle_config")
    section.consume("use_aux_hidden_state")
    given = section.take_or(LAYERS_KEY, list, [])
    if given:
        if not all(isinstance(layer, int) and layer >= -1 for layer in given):
            raise ConfigError(f"{section.name}: key {LAYERS_KEY!r} must hold numbers of layers, got {given}")
        return tuple(layer + 1 for layer in given)
    target = target_of(stored, "which of the target's layers the head reads follows from how many there are")
    return default_layers(len(getattr(target, "blocks", ())))


def write(drafter: FeatureDrafter) -> Written:
    head: Any = drafter.head
    lost = {
        "stream_norms": head.stream_norms != "none",
        "norm_output": head.norm_output,
        "mask_token": head.mask_token is not None,
        "blocks": len(head.blocks) != 1,
    }
    if any(lost.values()):
        names = [name for name, is_lost in lost.items() if is_lost]
        raise ConfigError(f"layout {NAME!r}: it cannot express this head, {names} would be lost")
    values = {
        **eagle3.write_blocks(head),
        "architectures": [EAGLE3[0]],
        "vocab_size": head.target_vocab_size,
        "draft_vocab_size": head.vocab_size,
        "target_hidden_size": head.target_width,
        "norm_before_residual": head.blocks[0].norm_before_residual,
        "tie_word_embeddings": False,
        "eagle_config": {LAYERS_KEY: [layer - 1 for layer in head.layers], "use_aux_hidden_state": True},
    }
    tensors = (
        *write_head_params(TABLE, head, drafter.params),
        *eagle3.write_token_ids(drafter.token_ids, head.target_vocab_size),
    )
    return Written(values=values, tensors=tensors)


LAYOUT = Layout(name=NAME, read=read, write=write)
