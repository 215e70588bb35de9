"""The options of `jaxmodels generate` by which a checkpoint is read and its weights are held."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxmodels.cli.common import (
    Adapters,
    AllowPickle,
    DType,
    ExpertsIn,
    OnMesh,
    Quantize,
    Revision,
    TextOnly,
    Verify,
    experts_from,
    mesh_of,
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The options as given."""

    dtype: Annotated[DType | None, typer.Option(help="Of the parameters.")] = None
    quantize: Quantize = None
    experts: ExpertsIn = "device"
    mesh: OnMesh = None
    adapter: Adapters = None
    allow_pickle: AllowPickle = False
    text_only: TextOnly = False
    verify: Verify = True
    revision: Revision = None

    @property
    def is_spread(self) -> bool:
        """Whether weights are elsewhere than in the memory of one device."""
        return self.mesh is not None or self.experts != "device"

    def beside(self) -> Callable[..., Any]:
        """`jaxmodels.load` for models beside the one that is asked for, such as drafts: whole on one device.

        Importing it takes half of a start that compiles nothing.
        """
        from jaxmodels.io import load

        return partial(
            load, dtype=self.dtype and self.dtype.value, allow_pickle=self.allow_pickle, verify=self.verify
        )

    def model(self, name: str, compiled: Path | None = None) -> Any:
        """The model that is asked for, spread over devices as asked for, or as compiled programs ask for.

        Raises:
            ValueError: a mesh beside compiled programs, which are for one of their own.
        """
        load, experts = self.beside(), experts_from(self.experts)
        spread: dict[str, Any] = {"mesh": mesh_of(self.mesh)}
        if compiled is not None:
            if self.mesh is not None:
                raise ValueError(
                    "--mesh: the programs of --compiled are for a mesh of their own; leave one of them out"
                )
            from jaxmodels.artefacts.compiled import spread_of

            spread = spread_of(compiled)
        return load(
            name, revision=self.revision, text_only=self.text_only, adapter=self.adapter or (),
            quantize=self.quantize, experts=experts, **spread,
        )  # fmt: skip
