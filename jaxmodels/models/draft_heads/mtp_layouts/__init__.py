"""How checkpoints announce, name and store modules for multi-token prediction: one file per layout."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from jaxmodels.models.draft_heads.mtp_layouts.layout import MTPLayout


def _layouts() -> Iterator[MTPLayout]:
    """Every module-level `MTPLayout` of the modules beside this one."""
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}"))
        yield from (member for member in members.values() if isinstance(member, MTPLayout))


# By the `model_type` of the model that the modules belong to.
LAYOUTS: Mapping[str, MTPLayout] = {kind: layout for layout in _layouts() for kind in layout.model_types}

__all__ = ["LAYOUTS", "MTPLayout"]
