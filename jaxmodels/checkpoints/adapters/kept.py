"""Adapters kept beside the model whose weights they change."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxmodels.checkpoints.adapters.merge import merged
from jaxmodels.checkpoints.adapters.reader import Adapter
from jaxmodels.checks import shown
from jaxmodels.layers.spec import Params, walk
from jaxmodels.models.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class KeptAdapters:
    """A base model and adapters for it, at most one of them in use.

    Attributes:
        config: of the base.
        params: of the base. A model with an adapter has the same arrays where the adapter changes nothing.
        adapters: by name, as low-rank pairs.
        active: name of the adapter in use, None for the base.
    """

    config: Decoder
    params: Params = field(repr=False)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    active: str | None = None

    def with_adapter(self, name: str, adapter: Adapter) -> "KeptAdapters":
        """The same with another adapter; one of the same name is replaced."""
        return replace(self, adapters={**self.adapters, name: adapter})

    def use(self, name: str | None) -> tuple["KeptAdapters", Decoder, Params]:
        """Puts an adapter in use, or none; also gives the model and its parameters.

        Raises:
            ValueError: there is no adapter of this name.
            CheckpointError: the adapter does not fit the model.
        """
        if name is None:
            return replace(self, active=None), self.config, self.params
        if name not in self.adapters:
            raise ValueError(f"there is no adapter {shown(name)}; the model has {sorted(self.adapters)}")
        config, params = merged(self.config, dict(walk(self.params)), [self.adapters[name]])
        return replace(self, active=name), config, params
