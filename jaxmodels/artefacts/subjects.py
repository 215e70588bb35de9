"""What compiled programs are for: a model and a decoding method, in words and digests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.runtime import digest
from jaxmodels.checks import shown
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.packed import PackedStack
from jaxmodels.layers.spec import Params, abstract_params, walk
from jaxmodels.models.language_model import BlockStack, LanguageModel


def describe_model(config: LanguageModel, params: Params | None, dtype: Any = None) -> dict[str, str]:
    """A model in words and digests; without parameters, those that it would have with this dtype."""
    if params is None:
        params = abstract_params(config.spec(), dtype)
    family = getattr(config, "family", None) or type(config).__name__
    blocks = f" of {len(config.blocks)} blocks" if isinstance(config, BlockStack) else ""
    leaves = [(path, *_type_of(leaf)) for path, leaf in walk(params)]
    return {
        "model": f"a {family}{blocks}, {config.vocab_size} tokens, in {_dtypes(config, params)}",
        "digest": digest(repr(config)),
        "parameters": digest(repr(leaves)),
    }


def _type_of(leaf: Any) -> tuple[Any, ...]:
    """The shape and dtype of a parameter, and those of its parts where it is quantised."""
    if isinstance(leaf, PackedStack):
        in_bytes = (tuple(leaf.rows.shape), leaf.groups, str(leaf.numbers), str(leaf.scales))
        return tuple(leaf.shape), str(leaf.dtype), *in_bytes
    parts = (leaf.numbers, leaf.scales) if isinstance(leaf, QuantizedArray) else ()
    return tuple(leaf.shape), str(leaf.dtype), *((tuple(part.shape), str(part.dtype)) for part in parts)


def _dtypes(config: LanguageModel, params: Params) -> str:
    leaves = [leaf for _, leaf in walk(params)]
    held = {str(leaf.numbers.dtype) for leaf in leaves if isinstance(leaf, QuantizedArray)}
    held |= {str(leaf.numbers) for leaf in leaves if isinstance(leaf, PackedStack)}
    weights = f" with weights in {' and '.join(sorted(held))}" if held else ""
    return f"{config.dtype_of(params)}{weights}"


def describe_strategy(strategy: Strategy) -> dict[str, str]:
    """A decoding method in words, and a digest of what programs depend on of it."""
    leaves, structure = jax.tree.flatten(strategy)
    kinds = [(leaf.shape, str(leaf.dtype)) if hasattr(leaf, "shape") else type(leaf) for leaf in leaves]
    return {"strategy": shown(strategy, 200), "digest": digest(f"{structure} {kinds}")}


def check_strategy(directory: Path, there: Mapping[str, str], strategy: Strategy) -> None:
    """Raises ArtefactError, naming both, where programs are for another decoding method."""
    here = describe_strategy(strategy)
    if here["digest"] != there["digest"]:
        raise ArtefactError(
            f"the programs in {directory} decode by {there['strategy']}, and asked for is "
            f"{here['strategy']}; ask for that, or compile programs for this with `jaxmodels tpu compile`"
        )
