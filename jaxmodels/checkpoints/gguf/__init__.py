"""Models in GGUF files, the format of llama.cpp: configuration, weights and tokenizer in one file.

Quantised weights are dequantised while they are read. Needs the extra ``jaxmodels[gguf]``.
"""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.checkpoints.gguf.architectures import ARCHITECTURES
    from jaxmodels.checkpoints.gguf.file import GGUFFile, find_gguf, open_gguf
    from jaxmodels.checkpoints.gguf.tensors import is_plain, open_model
    from jaxmodels.checkpoints.gguf.tokenizer import generation_defaults, load_tokenizer

__all__ = [
    "ARCHITECTURES",
    "GGUFFile",
    "find_gguf",
    "generation_defaults",
    "is_plain",
    "load_tokenizer",
    "open_gguf",
    "open_model",
]

_HOMES = {
    "architectures": ("ARCHITECTURES",),
    "file": ("GGUFFile", "find_gguf", "open_gguf"),
    "tensors": ("is_plain", "open_model"),
    "tokenizer": ("generation_defaults", "load_tokenizer"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
