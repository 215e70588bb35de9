"""What a checkpoint recommends for generating: its end tokens, sampling settings and what it forbids."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from jaxmodels.checkpoints.arguments import check_path
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checks import number, shown, whole

GENERATION_FILE = "generation_config.json"
CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """The contents of `generation_config.json`; None and () stand for what a checkpoint leaves open.

    The names are the file's, but for `eos_token_ids`. What the settings do is said where they are obeyed:
    `jaxmodels.decoding.samplers` and `jaxmodels.decoding.processors`.

    Attributes:
        eos_token_ids: any of these ends a text.
        bos_token_id: begins a text.
        pad_token_id: fills rows that are shorter than others.
        do_sample: sample rather than take the likeliest token.
        temperature: see `Sample`, as are top_k, top_p, min_p, typical_p, epsilon_cutoff and eta_cutoff.
        repetition_penalty: see `RepetitionPenalty`.
        frequency_penalty: see `FrequencyPenalty`.
        presence_penalty: see `PresencePenalty`.
        no_repeat_ngram_size: see `NoRepeatNGram`.
        sequence_bias: pairs of token ids and what is added to the logit of the last; see `SequenceBias`.
        bad_words_ids: sequences of token ids that must not occur.
        suppress_tokens: tokens that must not occur.
        begin_suppress_tokens: tokens that must not begin the answer.
        min_length: length of prompt and answer together, at least.
        min_new_tokens: length of the answer, at least.
        forced_bos_token_id: the second token of every text.
        forced_eos_token_id: the last tokens that an answer may have, of which one ends a full answer.
        stop_strings: texts that end the answer.
        max_new_tokens: length of the answer.
        max_length: length of prompt and answer together.
        extra: every other key of the file, kept for writing it back.

    Raises:
        ValueError: a setting is of another kind; the message names it.
    """

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    min_length: int | None = None
    min_new_tokens: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    max_length: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for key, read in _READERS.items():
            name = _ATTRIBUTES.get(key, key)
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                object.__setattr__(self, name, read(name, _as_json(value)))

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Reads the defaults of a checkpoint directory.

        A key that `generation_config.json` lacks, or the whole file, falls back to the same key of
        `config.json` for the three token ids. With neither file everything is open.

        Raises:
            CheckpointError: a file is corrupt, or a value has the wrong type; names the file and the key.
        """
        check_path("directory", directory)
        directory = Path(directory)
        values: dict[str, Any] = {}
        if (directory / CONFIG_FILE).is_file():
            config = read_json_object(directory / CONFIG_FILE)
            nested = config.get(
                "text_config"
            )  # where models of text and images keep the text model's settings
            config = {**(nested if isinstance(nested, dict) else {}), **config}
            ids = {key: config[key] for key in _FALL_BACK if config.get(key) is not None}
            values = _checked(ids, directory / CONFIG_FILE)
        if (directory / GENERATION_FILE).is_file():
            generation = read_json_object(directory / GENERATION_FILE)
            values |= _checked(generation, directory / GENERATION_FILE)
        return cls(**values)

    def within(self, vocab_size: int, directory: str | Path) -> Self:
        """The defaults without the token ids that a model of `vocab_size` tokens never meets.

        Conversions carry ids such as -1 for "none", and ids of tokens that the model was not given. They ask
        for nothing: an end that does not come, a ban of what cannot be said. One warning names them and
        `directory`. A sequence of tokens is dropped whole where one of its ids is.
        """
        changes: dict[str, Any] = {}
        foreign: list[str] = []

        def is_known(key: str, *ids: int) -> bool:
            outside = [token for token in ids if not 0 <= token < vocab_size]
            foreign.extend(f"{key} {token}" for token in outside)
            return not outside

        for key in ("bos_token_id", "pad_token_id", "forced_bos_token_id"):
            value = getattr(self, key)
            if value is not None and not is_known(key, value):
                changes[key] = None
        for name in ("eos_token_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"):
            key = _KEYS.get(name, name)
            changes[name] = tuple(token for token in getattr(self, name) if is_known(key, token))
        changes["bad_words_ids"] = tuple(
            words for words in self.bad_words_ids if is_known("bad_words_ids", *words)
        )
        changes["sequence_bias"] = tuple(
            pair for pair in self.sequence_bias if is_known("sequence_bias", *pair[0])
        )
        if foreign:
            listed = ", ".join(foreign[:8]) + (f" and {len(foreign) - 8} more" if len(foreign) > 8 else "")
            warnings.warn(
                f"{directory}: token ids outside the vocabulary 0 to {vocab_size - 1} are ignored: {listed}",
                stacklevel=3,
            )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `load` reads: what is open is left out, a single end token is a number."""
        values: dict[str, Any] = dict(self.extra)
        for key in _READERS:
            value = getattr(self, _ATTRIBUTES.get(key, key))
            if value is None or value == ():
                continue
            is_one_id = key in ("eos_token_id", "forced_eos_token_id") and len(value) == 1
            values[key] = value[0] if is_one_id else _as_json(value)
        return values

    def save(self, directory: str | Path) -> None:
        """Writes `generation_config.json`."""
        check_path("directory", directory)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        (Path(directory) / GENERATION_FILE).write_text(text + "\n", encoding="utf-8")


_FALL_BACK = ("eos_token_id", "bos_token_id", "pad_token_id")
_ATTRIBUTES = {"eos_token_id": "eos_token_ids"}
_KEYS = {attribute: key for key, attribute in _ATTRIBUTES.items()}


def _token_id(name: str, value: Any) -> int:
    return whole(name, value, low=-(2**31))


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return (_token_id(name, value),)
    return tuple(_token_id(f"{name}[{i}]", token) for i, token in enumerate(value))


def _sequence(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of token ids, got {shown(value)}")
    return _token_ids(name, value)


def _sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of lists of token ids, got {shown(value)}")
    return tuple(_sequence(f"{name}[{i}]", one) for i, one in enumerate(value))


def _biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError(f"{name} must be a list of pairs [token ids, bias], got {shown(value)}")
    return tuple(
        (_sequence(f"{name}[{i}][0]", ids), number(f"{name}[{i}][1]", bias))
        for i, (ids, bias) in enumerate(value)
    )


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{name} must be a text or a list of texts, none of them empty, got {shown(value)}")
    return tuple(texts)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return value


# How each key of the file is checked: a function of the key and its value that raises ValueError.
_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "eos_token_id": _token_ids,
    "bos_token_id": _token_id,
    "pad_token_id": _token_id,
    "do_sample": _switch,
    "temperature": number,
    "top_k": whole,
    "top_p": number,
    "min_p": number,
    "typical_p": number,
    "epsilon_cutoff": number,
    "eta_cutoff": number,
    "repetition_penalty": number,
    "frequency_penalty": number,
    "presence_penalty": number,
    "no_repeat_ngram_size": whole,
    "sequence_bias": _biases,
    "bad_words_ids": _sequences,
    "suppress_tokens": _token_ids,
    "begin_suppress_tokens": _token_ids,
    "min_length": whole,
    "min_new_tokens": whole,
    "forced_bos_token_id": _token_id,
    "forced_eos_token_id": _token_ids,
    "stop_strings": _texts,
    "max_new_tokens": whole,
    "max_length": whole,
}


def _checked(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Constructor arguments for the keys of a file; keys without a field of their own go to `extra`."""
    values: dict[str, Any] = {"extra": {}}
    for key, value in config.items():
        if key not in _READERS:
            values["extra"][key] = value
        elif value is not None and value != []:
            try:
                values[_ATTRIBUTES.get(key, key)] = _READERS[key](key, value)
            except ValueError as error:
                raise CheckpointError(f"{file}: {error}") from error
    return values


def _as_json(value: Any) -> Any:
    return [_as_json(one) for one in value] if isinstance(value, tuple) else value
