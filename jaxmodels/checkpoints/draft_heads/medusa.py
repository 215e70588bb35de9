"""Medusa as its authors publish it (https://github.com/FasterDecoding/Medusa), and as vLLM reads it.

The authors' file holds nothing but the heads, by their place in lists: ``{head}.{layer}.linear`` are residual
layers, and what stands behind them is the head's output matrix. Sizes follow from the tensors. In
vLLM's form all sizes are in the configuration, heads may share one output matrix, and may know only those
tokens that ``token_map`` names.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    check_all_read,
    integers,
    read_head_params,
    write_head_params,
)
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.pickles import read_pickle
from jaxmodels.checkpoints.safetensors_io import TensorReader, missing_tensor_message, open_tensors
from jaxmodels.decoding.drafters.medusa_drafter import MedusaDrafter
from jaxmodels.models.draft_heads.medusa import Medusa
from jaxmodels.models.family import Table, Weight
from jaxmodels.models.hf_config import ConfigError

ORIGINAL, VLLM = "medusa", "medusa_vllm"
STEM = "medusa_lm_head"
TOKEN_MAP = "token_map"
# Of the base model and of generation.
ORIGINAL_INERT = ("base_model_name_or_path", "version", "medusa_choices")
VLLM_INERT = ("max_paths", "topk", "max_seq_len")


# --- the authors' form -------------------------------------------------------------------------------


def original_rows(head: Medusa) -> tuple[Weight, ...]:
    """The row of each parameter."""
    rows = []
    for k in range(head.heads):
        for j in range(head.depth):
            rows.append(Weight(f"heads/{k}/layers/{j}/weight", f"{k}.{j}.linear.weight"))
            rows.append(Weight(f"heads/{k}/layers/{j}/bias", f"{k}.{j}.linear.bias"))
        rows.append(Weight(f"heads/{k}/output/weight", f"{k}.{head.depth}.weight"))
    return tuple(rows)


ORIGINAL_TABLE: Table[Medusa] = Table(
    model_type=ORIGINAL, weights=(), named_weights=original_rows, renamed=((r"^medusa_head\.", ""),)
)


def open_original(directory: Path, *, allow_pickle: bool) -> TensorReader:
    """The file of heads: safetensors, or the pickle that the authors publish."""
    pickle = directory / f"{STEM}.pt"
    if pickle.exists() and allow_pickle and not (directory / f"{STEM}.safetensors").exists():
        return read_pickle(directory, pickle.name)
    if pickle.exists() and not (directory / f"{STEM}.safetensors").exists():
        raise CheckpointError(
            f"{pickle} is a pickle, which can run code when it is read; pass allow_pickle=True if you trust "
            "its source"
        )
    return open_tensors(directory, f"{STEM}.safetensors", f"{STEM}.safetensors.index.json")


def read_original(stored: Stored) -> MedusaDrafter:
    reader = stored.reader("Medusa heads")
    heads, depth = reader.positive("medusa_num_heads"), reader.positive_or("medusa_num_layers", 1)
    check_all_read(reader, ORIGINAL_INERT)
    infos = {ORIGINAL_TABLE.name_in_table(name): info for name, info in stored.tensors.infos.items()}
    output = infos.get(f"0.{depth}.weight")
    if output is None or len(output.shape) != 2:
        raise CheckpointError(missing_tensor_message(f"0.{depth}.weight", stored.tensors.infos))
    # The authors' files hold fewer heads than some of their configurations say.
    stored_heads = 1 + max(int(name.partition(".")[0]) for name in infos if name[0].isdigit())
    vocabulary, width = output.shape
    head = Medusa(
        target_vocab_size=vocabulary,
        vocab_size=vocabulary,
        d_model=width,
        heads=min(heads, stored_heads),
        depth=depth,
        bias="0.0.linear.bias" in infos,
        layout=ORIGINAL,
    )
    return MedusaDrafter(head=head, params=read_head_params(ORIGINAL_TABLE, head, stored))


def write_original(drafter: MedusaDrafter) -> Written:
    head = drafter.head
    lost = {"shared_output": head.shared_output, "token_ids": drafter.token_ids is not None}
    if any(lost.values()):
        names = [name for name, is_lost in lost.items() if is_lost]
        raise ConfigError(f"layout {ORIGINAL!r}: it cannot express these heads, {names} would be lost")
    values = {"medusa_num_heads": head.heads, "medusa_num_layers": head.depth}
    return Written(values=values, tensors=write_head_params(ORIGINAL_TABLE, head, drafter.params), stem=STEM)


# --- vLLM's form -------------------------------------------------------------------------------------


def vllm_rows(head: Medusa) -> tuple[Weight, ...]:
    """The row of each parameter."""
    rows = [Weight("output/weight", "lm_heads.0.weight")] if head.shared_output else []
    for k in range(head.heads):
        for j in range(head.depth):
            rows.append(Weight(f"heads/{k}/layers/{j}/weight", f"blocks.{k}.layers.{j}.weight"))
            rows.append(Weight(f"heads/{k}/layers/{j}/bias", f"blocks.{k}.layers.{j}.bias"))
        if not head.shared_output:
            rows.append(Weight(f"heads/{k}/output/weight", f"lm_heads.{k}.weight"))
    return tuple(rows)


VLLM_TABLE: Table[Medusa] = Table(
    model_type=VLLM,
    weights=(),
    named_weights=vllm_rows,
    renamed=((r"^medusa_heads\.", ""), (r"^lm_head\.weight$", "lm_heads.0.weight")),
    unused=(TOKEN_MAP,),
)


def read_vllm(stored: Stored) -> MedusaDrafter:
    reader = stored.reader("Medusa heads")
    reader.expect("model_type", "medusa")
    reader.expect("logit_scale", 1, 1.0)
    vocabulary = reader.positive("vocab_size")
    head = Medusa(
        target_vocab_size=vocabulary,
        vocab_size=reader.positive_or("truncated_vocab_size", vocabulary),
        d_model=reader.positive("hidden_size"),
        heads=reader.positive("num_heads"),
        depth=reader.positive_or("num_hidden_layers", 1),
        bias=reader.flag("medusa_fc_bias", False),
        shared_output=reader.flag("original_lm_head", False),
        layout=VLLM,
    )
    check_all_read(reader, VLLM_INERT)
    token_ids = _read_token_map(stored, head)
    return MedusaDrafter(head=head, params=read_head_params(VLLM_TABLE, head, stored), token_ids=token_ids)


def _read_token_map(stored: Stored, head: Medusa) -> jax.Array | None:
    if TOKEN_MAP not in stored.tensors.infos:
        if head.vocab_size != head.target_vocab_size:
            raise CheckpointError(
                f"{stored.file}: truncated_vocab_size={head.vocab_size} of {head.target_vocab_size} tokens, "
                f"and there is no tensor {TOKEN_MAP!r} that says which"
            )
        return None
    numbers = stored.tensors.read(TOKEN_MAP).astype(np.int64)
    if numbers.shape != (head.vocab_size,) or numbers.min() < 0 or numbers.max() >= head.target_vocab_size:
        raise CheckpointError(
            f"{stored.directory}: tensor {TOKEN_MAP!r} must hold {head.vocab_size} numbers below "
            f"{head.target_vocab_size}, got {list(numbers.shape)} from {numbers.min()} to {numbers.max()}"
        )
    return jnp.asarray(numbers, jnp.int32)


def write_vllm(drafter: MedusaDrafter) -> Written:
    head = drafter.head
    values = {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "vocab_size": head.target_vocab_size,
        "truncated_vocab_size": head.vocab_size,
        "hidden_size": head.d_model,
        "num_heads": head.heads,
        "num_hidden_layers": head.depth,
        "medusa_fc_bias": head.bias,
        "original_lm_head": head.shared_output,
    }
    known = (
        [] if drafter.token_ids is None else [integers(TOKEN_MAP, np.asarray(drafter.token_ids, np.int64))]
    )
    return Written(values=values, tensors=(*write_head_params(VLLM_TABLE, head, drafter.params), *known))


LAYOUT = Layout(
    name=ORIGINAL,
    read=read_original,
    write=write_original,
    open=open_original,
)
VLLM_LAYOUT = Layout(
    name=VLLM,
    read=read_vllm,
    write=write_vllm,
)
