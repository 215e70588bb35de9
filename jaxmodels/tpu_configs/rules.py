"""Sharding rules: which axis of the mesh each logical axis of parameters and states is cut over."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from jax.sharding import PartitionSpec

from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checks import shown
from jaxmodels.layers.partition import MESH_AXES, ROW_AXES, leading_axes
from jaxmodels.layers.spec import LOGICAL_AXES

Rule: TypeAlias = str | tuple[str, ...] | None

# What many heads share, or callers choose: whole on every device where its size does not divide.
_WHOLE_IF_UNEVEN = ("kv_heads", "ssm_groups")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """For each logical axis (see `LOGICAL_AXES`) the mesh axis, or axes, that it is cut over, or None.

    A mesh axis cuts one dimension of an array: the first that asks for it. Rows of a batch are cut over as
    many of their mesh axes, from the first on, as divide their number. Key/value heads and groups of state
    space layers, which many heads share, are whole on every device where they do not divide; every other axis
    must.

    Raises:
        ValueError: a field names no axis of `MESH_AXES`, or one twice.
    """

    batch: Rule = ROW_AXES
    embed: Rule = "fsdp"
    experts: Rule = "expert"
    head_dim: Rule = None
    heads: Rule = "tensor"
    kv_heads: Rule = "tensor"
    latent: Rule = None
    layers: Rule = None
    mlp: Rule = "tensor"
    slots: Rule = None
    ssm_groups: Rule = "tensor"
    ssm_heads: Rule = "tensor"
    ssm_inner: Rule = "tensor"
    ssm_state: Rule = None
    vocab: Rule = "tensor"

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            names = given if isinstance(given, tuple) else (given,)
            bad = [name for name in names if name not in MESH_AXES and not (name is None and given is None)]
            if bad or len(set(names)) < len(names):
                raise ValueError(
                    f"Rules: {field.name} must be one of the mesh axes {', '.join(MESH_AXES)}, a tuple of "
                    f"some of them, or None, got {shown(given)}"
                )

    def axes(self, logical: str | None) -> tuple[str, ...]:
        """The mesh axes of a logical axis; none for None."""
        rule: Rule = None if logical is None else getattr(self, logical)
        return () if rule is None else (rule,) if isinstance(rule, str) else rule

    def partition(
        self,
        name: str,
        shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        sizes: Mapping[str, int],
    ) -> PartitionSpec:
        """How an array is cut.

        Args:
            name: the array's, for messages.
            shape, axes: its dimensions and their logical names.
            sizes: of the mesh's axes.

        Raises:
            ValueError: a dimension is not divisible by the devices that it would be cut over.
        """
        used: set[str] = set()
        parts: list[Rule] = []
        for size, logical in zip(shape, axes, strict=True):
            asked = tuple(axis for axis in self.axes(logical) if sizes.get(axis, 1) > 1 and axis not in used)
            cut = _dividing(size, logical, asked, sizes)
            if cut is None:
                over = " and ".join(f"{axis!r} of size {sizes[axis]}" for axis in asked)
                raise ValueError(
                    f"mesh: {name} has {size} {logical!r}, which mesh axis {over} does not divide evenly; "
                    f"choose another size for the mesh axis, or Rules({logical}=None), which keeps it whole "
                    "on every device"
                )
            used.update(cut)
            parts.append(cut[0] if len(cut) == 1 else cut or None)
        return PartitionSpec(*parts)


def _dividing(
    size: int, logical: str | None, asked: tuple[str, ...], sizes: Mapping[str, int]
) -> tuple[str, ...] | None:
    """Those of the mesh axes asked for that a dimension is cut over, None where it cannot be."""
    if logical == "batch":
        return leading_axes(size, asked, sizes)
    if size % math.prod(sizes[axis] for axis in asked):
        return () if logical in _WHOLE_IF_UNEVEN else None
    return asked


DEFAULT_RULES = Rules()


def rules_from_json(path: str | Path) -> Rules:
    """The rules of a file such as ``{"vocab": null, "batch": ["data", "fsdp"]}``; others are the default.

    Raises:
        CheckpointError: the file is missing or no JSON object.
        ValueError: an unknown logical or mesh axis; the message names the file.
    """
    values: dict[str, Any] = {}
    for logical, rule in read_json_object(Path(path)).items():
        if logical not in LOGICAL_AXES:
            near = difflib.get_close_matches(logical, LOGICAL_AXES, 1)
            meant = f", perhaps {near[0]!r} is meant" if near else ""
            raise ValueError(
                f"{path}: {logical!r} is no logical axis of parameters or caches{meant}; they are "
                f"{', '.join(LOGICAL_AXES)}"
            )
        values[logical] = tuple(rule) if isinstance(rule, list) else rule
    try:
        return Rules(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
