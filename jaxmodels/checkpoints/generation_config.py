"""What a checkpoint recommends for generating: its end tokens and sampling settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jaxmodels.checkpoints.errors import CheckpointError, read_json_object

GENERATION_FILE = "generation_config.json"
CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """The contents of `generation_config.json`; None and () stand for what a checkpoint leaves open.

    Attributes:
        eos_token_ids: any of these ends a text.
        bos_token_id: begins a text.
        pad_token_id: fills rows that are shorter than others.
        temperature: divides the logits.
        top_k: sample among this many most likely tokens.
        top_p: sample among the most likely tokens that together have this probability.
        min_p: sample among tokens with at least this fraction of the likeliest one's probability.
        repetition_penalty: divides positive and multiplies negative logits of tokens already in the text.
        do_sample: sample rather than take the likeliest token.
        max_new_tokens: length of the answer.
        max_length: length of prompt and answer together.
        extra: every other key of the file, kept for writing it back.
    """

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Reads the defaults of a checkpoint directory.

        A key that `generation_config.json` lacks, or the whole file, falls back to the same key of
        `config.json` for the three token ids. With neither file everything is open.

        Raises:
            CheckpointError: a file is corrupt, or a value has the wrong type; names the file and the key.
        """
        directory = Path(directory)
        values: dict[str, Any] = {}
        if (directory / CONFIG_FILE).is_file():
            config = read_json_object(directory / CONFIG_FILE)
            nested = config.get(
                "text_config"
            )  # where models of text and images keep the text model's settings
            config = {**(nested if isinstance(nested, dict) else {}), **config}
            ids = {key: config[key] for key in _TOKEN_IDS if config.get(key) is not None}
            values = _checked(ids, directory / CONFIG_FILE)
        if (directory / GENERATION_FILE).is_file():
            generation = read_json_object(directory / GENERATION_FILE)
            values |= _checked(generation, directory / GENERATION_FILE)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `load` reads: what is open is left out, a single end token is a number."""
        values: dict[str, Any] = dict(self.extra)
        if self.eos_token_ids:
            values["eos_token_id"] = (
                self.eos_token_ids[0] if len(self.eos_token_ids) == 1 else [*self.eos_token_ids]
            )
        for key in _FIELDS:
            value = getattr(self, key)
            if value is not None:
                values[key] = value
        return values

    def save(self, directory: str | Path) -> None:
        """Writes `generation_config.json`."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        (Path(directory) / GENERATION_FILE).write_text(text + "\n", encoding="utf-8")


_TOKEN_IDS = ("eos_token_id", "bos_token_id", "pad_token_id")
_FIELDS: Mapping[str, type] = {
    "bos_token_id": int,
    "pad_token_id": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "do_sample": bool,
    "max_new_tokens": int,
    "max_length": int,
}
_DESCRIPTIONS = {int: "an integer", float: "a number", bool: "true or false"}


def _checked(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Constructor arguments for the keys of a file; keys without a field of their own go to `extra`."""
    values: dict[str, Any] = {"extra": {}}
    for key, value in config.items():
        if key == "eos_token_id":
            ids = value if isinstance(value, list) else [] if value is None else [value]
            if not all(_is_a(token, int) for token in ids):
                raise CheckpointError(
                    f"{file}: {key} is {value!r}; it must be an integer or a list of integers"
                )
            if ids:
                values["eos_token_ids"] = tuple(ids)
        elif key not in _FIELDS:
            values["extra"][key] = value
        elif value is not None:
            if not _is_a(value, _FIELDS[key]):
                raise CheckpointError(f"{file}: {key} is {value!r}; it must be {_DESCRIPTIONS[_FIELDS[key]]}")
            values[key] = value
    return values


def _is_a(value: object, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
