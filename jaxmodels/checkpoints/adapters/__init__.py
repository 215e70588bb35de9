"""LoRA adapters of `peft`: read, merged into a model's weights, or kept beside them."""

from jaxmodels.checkpoints.adapters.kept import KeptAdapters
from jaxmodels.checkpoints.adapters.merge import merged
from jaxmodels.checkpoints.adapters.reader import Adapter, read_adapter

__all__ = ["Adapter", "KeptAdapters", "merged", "read_adapter"]
