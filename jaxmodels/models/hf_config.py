"""Strict reading of ``config.json`` dictionaries: every key is used, known to be inert, or refused."""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# Keys that do not change what a forward pass computes. They are carried through and written back.
INERT_KEYS = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "auto_map", "bos_token_id", "dtype",
        "eos_token_id", "initializer_range", "model_type", "output_attentions", "output_hidden_states",
        "pad_token_id", "pretraining_tp", "return_dict", "task_specific_params", "tokenizer_class",
        "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip


class ConfigError(ValueError):
    """A configuration that cannot be read: the message names the key, the value and what would be right."""


class ConfigReader:
    """Reads one config dictionary key by key and reports what was left unread.

    `inert` names further keys that are known not to change a forward pass in this family.
    """

    def __init__(self, values: Mapping[str, Any], inert: Collection[str] = ()) -> None:
        self.values = values
        self._unread = set(values) - INERT_KEYS - set(inert)

    def take(self, key: str, kind: type[T]) -> T:
        """The value of a required key."""
        value = self.optional(key, kind)
        if value is None:
            raise ConfigError(f"{self._name()}: key {key!r} is missing; expected {kind.__name__}")
        return value

    def take_or(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key, or `default` where it is absent or null."""
        value = self.optional(key, kind)
        return default if value is None else value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value of a key, or None where it is absent or null. Integers must not be negative."""
        self._unread.discard(key)
        value = self.values.get(key)
        if value is None:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{self._name()}: key {key!r} must be {kind.__name__}, got {value!r}")
        if isinstance(value, int) and value < 0:
            raise ConfigError(f"{self._name()}: key {key!r} must not be negative, got {value!r}")
        return value

    def nullable(self, key: str, kind: type[T], default: T | None) -> T | None:
        """The value of a key, None where it is null, or `default` where it is absent."""
        return self.optional(key, kind) if key in self.values else default

    def positive(self, key: str) -> int:
        """The value of a required key that counts something, at least 1."""
        value = self.take(key, int)
        if value < 1:
            raise ConfigError(f"{self._name()}: key {key!r} must be at least 1, got {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """The value of an optional boolean key."""
        return self.take_or(key, bool, default)

    def numbers(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """An optional list of numbers. Infinities may be written ``{"__float__": "Infinity"}``."""
        self._unread.discard(key)
        value = self.values.get(key)
        if value is None:
            return default
        try:
            return tuple(float(item["__float__"] if isinstance(item, Mapping) else item) for item in value)
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{self._name()}: key {key!r} must be numbers, got {value!r}") from None

    def expect(self, key: str, *accepted: Any) -> None:
        """Requires an optional key, if it is present, to have one of the `accepted` values."""
        self._unread.discard(key)
        if key in self.values and self.values[key] not in accepted:
            raise ConfigError(
                f"{self._name()}: key {key!r} has the value {self.values[key]!r}, which is not supported; "
                f"supported: {', '.join(map(repr, accepted))}"
            )

    def consume(self, *keys: str) -> None:
        """Marks keys as read that the family interprets by itself."""
        self._unread -= set(keys)

    def finish(self) -> None:
        """Raises ConfigError if a key was not read: an unknown key could change the model."""
        if self._unread:
            found = {key: self.values[key] for key in sorted(self._unread)}
            raise ConfigError(f"{self._name()}: unknown config keys {found}; refusing to ignore them")

    def _name(self) -> str:
        return f"config of model_type {self.values.get('model_type')!r}"


def json_number(value: float) -> Any:
    """A float as Hugging Face writes it: infinities have no JSON literal."""
    if math.isinf(value):
        return {"__float__": "Infinity" if value > 0 else "-Infinity"}
    return value
