"""Classes that are read in the form of `diffusers`: from their configurations to ours and back."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from jaxmodels.checks import shown
from jaxmodels.models.config_keys import check_unknown, unknown_keys
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader

Config = TypeVar("Config")

# What `diffusers` notes in every configuration.
_NOTES = ("_class_name", "_diffusers_version", "_name_or_path")


class ClassRegistry(Mapping[str, Family[Any]], Generic[Config]):
    """Families by the ``_class_name`` of their configurations.

    kind: what they are called in messages. families: those of classes that `diffusers` or `transformers` has.
    own: those of classes that neither has. split: classes of older releases that are several today, the key
    that tells them apart, and today's class by its value.
    """

    def __init__(
        self,
        kind: str,
        families: Iterable[Family[Any]] = (),
        own: Iterable[Family[Any]] = (),
        split: Mapping[str, tuple[str, Mapping[str, str]]] | None = None,
    ) -> None:
        self.kind = kind
        self._own = {family.model_type: family for family in own}
        self._families = {family.model_type: family for family in families} | self._own
        self._split = split or {}

    def __getitem__(self, name: str) -> Family[Any]:
        return self._families[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._families)

    def __len__(self) -> int:
        return len(self._families)

    def is_own(self, name: str) -> bool:
        """Whether no library but this one has the class."""
        return name in self._own

    def read(self, values: Mapping[str, Any]) -> Config:
        """The model that a ``config.json`` describes.

        Raises:
            ConfigError: the class is not known, or a key has a value that is not supported or is unknown and
                may change the model; the message names it and the value.
        """
        name = self._class_of(values) if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name not in self:
            known = ", ".join(sorted(self))
            raise ConfigError(f"config: key '_class_name' is {shown(name)}; the {self.kind} are: {known}")
        family, reader = self[name], ConfigReader(values, f"config of {name}")
        try:
            config: Config = family.read_config(reader)
        except ConfigError:
            raise
        except ValueError as error:  # a layer refuses its sizes
            raise ConfigError(f"{reader.name}: {error}") from error
        check_unknown(reader.name, unknown_keys(reader.unread(), (*family.inert, *_NOTES)), strict=False)
        return config

    def _class_of(self, values: Mapping[str, Any]) -> object:
        """The class of a configuration, by today's names."""
        name = values.get("_class_name")
        if not isinstance(name, str) or name not in self._split:
            return name
        key, classes = self._split[name]
        return classes.get(str(values.get(key)), name)

    def write(self, config: Any) -> dict[str, Any]:
        """The ``config.json`` of a model: `read` gives `config` back.

        Raises:
            ConfigError: `config.family` is none of these, or has no place for something in the model.
        """
        if config.family is None or config.family not in self:
            known = ", ".join(sorted(self))
            raise ConfigError(f"config.family is {config.family!r}; to write it, set one of: {known}")
        written = self[config.family].write_config(config)
        again = self.read(written)
        lost = [name for name, value in vars(config).items() if getattr(again, name) != value]
        if lost:
            raise ConfigError(f"the {config.family!r} layout cannot express this model: {lost} would be lost")
        return written
