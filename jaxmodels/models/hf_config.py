"""Reading of ``config.json`` dictionaries: each key with its kind and range, and which keys were not read."""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jaxmodels.checks import MOST_INT32, number, shown, whole

T = TypeVar("T")

# What counts can be. They are far beyond what exists, and small enough to be built or refused at once.
MOST_LAYERS = 4_096  # published models have up to 200; 1,000 were tried (https://arxiv.org/abs/2203.00555)
MOST_EXPERTS = 2**20  # a million were tried (https://arxiv.org/abs/2407.04153)
MOST_WORDS = 2**26  # vocabularies of 67 million; published ones have up to a million
_MOST = {
    "embedding_size": MOST_WORDS,
    "n_layer": MOST_LAYERS,
    "n_layers": MOST_LAYERS,
    "num_hidden_layers": MOST_LAYERS,
    "n_routed_experts": MOST_EXPERTS,
    "num_experts": MOST_EXPERTS,
    "num_local_experts": MOST_EXPERTS,
    "vocab_size": MOST_WORDS,
}


class ConfigError(ValueError):
    """A configuration that cannot be read: the message names the key, the value and what would be right."""


class ConfigWarning(UserWarning):
    """A key of a configuration is unknown and was ignored, as it cannot change what the model computes."""


class ConfigReader:
    """Reads one config dictionary key by key and knows what was left unread.

    Numbers are finite and within what models can have; integers are not negative. A key whose value is null
    is as good as absent but for `nullable`.
    """

    def __init__(self, values: Mapping[str, Any], name: str | None = None) -> None:
        self.values = values
        self.name = f"config of model_type {shown(values.get('model_type'))}" if name is None else name
        self._unread = dict(values)
        self._sections: dict[str, ConfigReader] = {}

    def take(self, key: str, kind: type[T]) -> T:
        """The value of a required key."""
        value = self.optional(key, kind)
        if value is None:
            raise ConfigError(f"{self._key(key)} is missing; expected {kind.__name__}")
        return value

    def take_or(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key, or `default` where it is absent or null."""
        value = self.optional(key, kind)
        return default if value is None else value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value of a key, or None where it is absent or null. Integers must not be negative."""
        value = checked = self._given(key)
        if value is None:
            return None
        if kind is int:
            checked = self._whole(key, value, low=0)
        elif kind is float:
            checked = self._number(key, value)
        elif not isinstance(value, kind):
            raise ConfigError(f"{self._key(key)} must be {kind.__name__}, got {shown(value)}")
        return checked

    def nullable(self, key: str, kind: type[T], default: T | None) -> T | None:
        """The value of a key, None where it is null, or `default` where it is absent."""
        return self.optional(key, kind) if key in self.values else default

    def positive(self, key: str) -> int:
        """The value of a required key that counts something, at least 1."""
        count = self.count(key)
        if count is None:
            raise ConfigError(f"{self._key(key)} is missing; expected a whole number >= 1")
        return count

    def positive_or(self, key: str, default: int) -> int:
        """`positive`, or `default` where the key is absent or null."""
        count = self.count(key)
        return default if count is None else count

    def count(self, key: str) -> int | None:
        """`positive`, or None where the key is absent or null."""
        value = self._given(key)
        return None if value is None else self._whole(key, value, low=1)

    def factor(self, key: str, default: float) -> float:
        """A number above 0 that something is multiplied with, divided by or capped at."""
        value = self.take_or(key, float, default)
        return self._number(key, value, low=0.0, low_included=False)

    def base(self, key: str, default: float) -> float:
        """The base of a geometric series of frequencies, above 1."""
        value = self.take_or(key, float, default)
        return self._number(key, value, low=1.0, low_included=False)

    def epsilon(self, key: str, default: float) -> float:
        """A small number that keeps a norm from dividing by 0: from 0 to below 1."""
        return self._number(key, self.take_or(key, float, default), low=0.0, high=1.0)

    def cap(self, key: str, default: float | None) -> float | None:
        """A number above 0 that values are squashed into, None where the key is null."""
        value = self.nullable(key, float, default)
        return None if value is None else self._number(key, value, low=0.0, low_included=False)

    def flag(self, key: str, default: bool) -> bool:
        """The value of an optional boolean key."""
        return self.take_or(key, bool, default)

    def numbers(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """An optional list of as many numbers as `default` has."""
        given = self.take_or(key, list, list(default))
        if len(given) != len(default):
            raise ConfigError(f"{self._key(key)} must hold {len(default)} numbers, got {shown(given)}")
        return tuple(self._number(key, value) for value in given)

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An optional list of as many whole numbers from 1 on as `default` has."""
        given = self.take_or(key, list, list(default))
        if len(given) != len(default):
            raise ConfigError(f"{self._key(key)} must hold {len(default)} numbers, got {shown(given)}")
        return tuple(self._whole(key, value, low=1) for value in given)

    def limits(self, key: str, default: tuple[float, float]) -> tuple[float, float]:
        """An optional ``[low, high]``, from 0 on. Infinities may be written ``{"__float__": "Infinity"}``."""
        given = self.take_or(key, list, list(default))
        if len(given) != 2:
            raise ConfigError(f"{self._key(key)} must be [low, high], got {shown(given)}")
        low, high = (self._limit(key, value) for value in given)
        if not 0 <= low <= high:
            raise ConfigError(
                f"{self._key(key)} must be [low, high] with 0 <= low <= high, got {shown(given)}"
            )
        return low, high

    def _limit(self, key: str, value: Any) -> float:
        if isinstance(value, Mapping):
            value = value.get("__float__")
        for infinity in (math.inf, -math.inf):
            if value in (infinity, json_number(infinity)["__float__"]):
                return infinity
        return self._number(key, value)

    def pattern(self, key: str, known: Collection[T], layers: int, default: list[T] | None = None) -> list[T]:
        """A list or text with one of the `known` values for each of `layers`; required without `default`."""
        kind = str if isinstance(self.values.get(key), str) else list
        given = list(self.take(key, kind) if default is None else self.take_or(key, kind, default))
        if len(given) != layers or not all(item in list(known) for item in given):
            raise ConfigError(
                f"{self._key(key)} must hold {layers} of {list(known)}, one for each layer "
                f"(num_hidden_layers), got {len(given)}: {shown(given)}"
            )
        return given

    def layers(self, default: int) -> int:
        """The key `num_hidden_layers`, `default` where it is absent, at most `MOST_LAYERS` of them."""
        return self._whole("num_hidden_layers", self.take_or("num_hidden_layers", int, default), low=1)

    def indices(self, key: str, below: int, default: list[int]) -> list[int]:
        """An optional list of numbers of layers, from 0 to ``below - 1``."""
        given = self.take_or(key, list, default)
        name = f"{self._key(key)}: each number of a layer, below num_hidden_layers,"
        try:
            return [whole(name, item, high=below - 1) for item in given]
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def check_divides(self, key: str, value: int, other: str, total: int) -> None:
        """Requires the `value` of `key` to divide the `total` that the key `other` stands for."""
        if total % value:
            raise ConfigError(f"{self._key(key)} must divide {other!r} = {total}, got {value}")

    def expect_same(self, key: str, other: str, value: Any) -> None:
        """Requires an optional key, if it is present, to have the `value` of the key `other`."""
        if self._given(key) not in (None, value):
            given = shown(self.values[key])
            raise ConfigError(f"{self._key(key)} must equal {other!r} = {value} or be absent, got {given}")

    def expect(self, key: str, *accepted: Any) -> None:
        """Requires an optional key, if it is present, to have one of the `accepted` values."""
        self.consume(key)
        if key in self.values and self.values[key] not in accepted:
            raise ConfigError(
                f"{self._key(key)} has the value {shown(self.values[key])}, which is not supported; "
                f"supported: {', '.join(map(repr, accepted))}"
            )

    def consume(self, *keys: str) -> None:
        """Marks keys as read that the family interprets by itself."""
        for key in keys:
            self._unread.pop(key, None)

    def report(self, key: str, value: Any) -> None:
        """Adds a key that was found unread within the value of another."""
        self._unread[key] = value

    def section(self, key: str) -> "ConfigReader":
        """A reader of the dictionary under a key, an empty one where the key is absent or null."""
        if key not in self._sections:
            self._sections[key] = ConfigReader(self.take_or(key, dict, {}), f"{self.name}: {key}")
        return self._sections[key]

    def unread(self) -> dict[str, Any]:
        """The keys that were not read, those of sections as ``section/key``."""
        inner = {
            f"{name}/{key}": value
            for name, section in self._sections.items()
            for key, value in section.unread().items()
        }
        return self._unread | inner

    def _given(self, key: str) -> Any:
        self.consume(key)
        return self.values.get(key)

    def _whole(self, key: str, value: Any, *, low: int, high: int = MOST_INT32) -> int:
        try:
            return whole(self._key(key), value, low=low, high=min(high, _MOST.get(key, high)))
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _number(
        self,
        key: str,
        value: Any,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        low_included: bool = True,
    ) -> float:
        try:
            return number(self._key(key), value, low=low, high=high, low_included=low_included)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _key(self, key: str) -> str:
        return f"{self.name}: key {key!r}"


def json_number(value: float) -> Any:
    """A float as Hugging Face writes it: infinities have no JSON literal."""
    if math.isinf(value):
        return {"__float__": "Infinity" if value > 0 else "-Infinity"}
    return value
