"""What converters to GGUF do to tensors beside naming them anew, undone.

Source: llama.cpp's converter, as the reader of GGUF files in `transformers` undoes it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Edit:
    """Undoes what was done to the tensors of some names.

    Attributes:
        names: regular expression of the whole names of the tensors in the file.
        undo: from the stored tensor and the ``config.json`` to the tensor of `transformers`.
    """

    names: str
    undo: Callable[[np.ndarray, Values], np.ndarray]

    def applies_to(self, name: str) -> bool:
        """Whether tensors of this name were edited."""
        return re.fullmatch(self.names, name) is not None


def _split_pairs(heads_key: str) -> Callable[[np.ndarray, Values], np.ndarray]:
    """From rotated pairs side by side to pairs half a head apart, in each head's rows."""

    def undo(tensor: np.ndarray, values: Values) -> np.ndarray:
        pairs = tensor.reshape(int(values[heads_key]), -1, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    return undo


ROTARY_PAIRS = (
    Edit(r"blk\.\d+\.attn_q\.(weight|bias)", _split_pairs("num_attention_heads")),
    Edit(r"blk\.\d+\.attn_k\.(weight|bias)", _split_pairs("num_key_value_heads")),
)

# The scales of Gemma's norms are stored with the 1 that its code adds to them.
NORMS = Edit(r".*norm\.weight", lambda tensor, values: tensor - np.float32(1))

# -exp(a_log) is stored.
DECAYS = Edit(r"blk\.\d+\.ssm_a", lambda tensor, values: np.log(-tensor))

# The channel axis of one between outputs and taps is left out.
CONVOLUTIONS = Edit(r"blk\.\d+\.(ssm_conv1d|shortconv\.conv)\.weight", lambda tensor, values: tensor[:, None])

# GPT-2 keeps its projections as [in, out].
PROJECTIONS = Edit(
    r"blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight", lambda tensor, values: tensor.T
)

# One row is stored as a vector.
SHARED_GATE = Edit(r"blk\.\d+\.ffn_gate_inp_shexp\.weight", lambda tensor, values: tensor.reshape(1, -1))
