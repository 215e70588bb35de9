"""Tokenizers of Hugging Face checkpoints: text and chats to ids, ids to text at once or as they come."""

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import jax
import numpy as np
import tokenizers

from jaxmodels.checkpoints.chat import Message, render_chat
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object, read_text

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON_FILE = "chat_template.json"
TEMPLATES_DIRECTORY = "chat_templates"

TokenIds: TypeAlias = Sequence[int] | np.ndarray | jax.Array


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer and what its checkpoint says about it; made by `load` or `from_backend`.

    Attributes:
        backend: the `tokenizers.Tokenizer`, without truncation and padding.
        special_tokens: text of the special tokens by role ("bos_token", "eos_token", "pad_token",
            "unk_token", and what else the checkpoint names), for those that it has.
        chat_templates: Jinja sources by name; the usual one is "default".
        files: the tokenizer's files, by path relative to the checkpoint, as `save` writes them.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    chat_templates: Mapping[str, str]
    files: Mapping[str, str] = field(repr=False)

    @classmethod
    def load(cls, directory: str | Path) -> Self | None:
        """Reads the tokenizer of a checkpoint directory.

        Returns:
            None when the directory has no `tokenizer.json`; `why_no_tokenizer` says what it has instead.

        Raises:
            CheckpointError: a tokenizer file is corrupt.
        """
        directory = Path(directory)
        if not (directory / TOKENIZER_FILE).is_file():
            return None
        names = [TOKENIZER_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE, TEMPLATE_FILE, TEMPLATE_JSON_FILE]
        named_templates = sorted((directory / TEMPLATES_DIRECTORY).glob("*.jinja"))
        names += [f"{TEMPLATES_DIRECTORY}/{path.name}" for path in named_templates]
        files = {name: read_text(directory / name) for name in names if (directory / name).is_file()}
        try:
            backend = tokenizers.Tokenizer.from_str(files[TOKENIZER_FILE])
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f"{directory / TOKENIZER_FILE} is not a tokenizer that `tokenizers` {tokenizers.__version__} "
                f"reads: {error}"
            ) from error
        config = read_json_object(directory / CONFIG_FILE) if CONFIG_FILE in files else {}
        legacy = read_json_object(directory / SPECIAL_TOKENS_FILE) if SPECIAL_TOKENS_FILE in files else {}
        return cls(
            backend=_unbounded(backend),
            special_tokens=_special_tokens(legacy, directory / SPECIAL_TOKENS_FILE)
            | _special_tokens(config, directory / CONFIG_FILE),
            chat_templates=_chat_templates(config, files, directory),
            files=files,
        )

    @classmethod
    def from_backend(
        cls,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ) -> Self:
        """Wraps a tokenizer that comes from elsewhere, a newly trained one for instance.

        Args:
            backend: the tokenizer; a copy is kept.
            special_tokens: text by role, such as ``{"eos_token": "<|endoftext|>"}``.
            chat_template: Jinja source.

        Raises:
            CheckpointError: a special token is not in the vocabulary.
        """
        special_tokens = dict(special_tokens or {})
        for role, token in special_tokens.items():
            if backend.token_to_id(token) is None:
                raise CheckpointError(f"{role} {token!r} is not in the tokenizer's vocabulary; add it first")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **special_tokens}
        files = {
            TOKENIZER_FILE: backend.to_str(pretty=True),
            CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        }
        if chat_template is not None:
            files[TEMPLATE_FILE] = chat_template
        return cls(
            backend=_unbounded(tokenizers.Tokenizer.from_str(files[TOKENIZER_FILE])),
            special_tokens=special_tokens,
            chat_templates={} if chat_template is None else {"default": chat_template},
            files=files,
        )

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer's files, byte for byte as they were read."""
        for name, text in self.files.items():
            file = Path(directory) / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(text.encode())

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included. A model's embedding may have more rows."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a text; None without one."""
        return self._id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text; None without one."""
        return self._id("eos_token")

    @property
    def pad_id(self) -> int | None:
        """Id of the padding token; None without one."""
        return self._id("pad_token")

    @property
    def unk_id(self) -> int | None:
        """Id of the token for unknown text; None without one."""
        return self._id("unk_token")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, with the special tokens that the checkpoint puts around every text."""
        return self.backend.encode(text).ids

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation in the checkpoint's chat format; arguments as for `render_chat`.

        Args:
            messages: the conversation.
            add_generation_prompt: end with the header of the assistant's next message.
            tools: JSON schemas of the functions that the model may call.
            template: name of one of `chat_templates`; by default "tool_use" if there are tools and the
                checkpoint has it, else "default".
            variables: further names that the template may use.

        Raises:
            CheckpointError: the checkpoint has no such template, or the template rejects the messages.
        """
        if template is None:
            template = "tool_use" if tools and "tool_use" in self.chat_templates else "default"
        if template not in self.chat_templates:
            raise CheckpointError(
                f"this tokenizer has no chat template {template!r}, only {sorted(self.chat_templates)}; "
                f"encode a prompt instead, or load it with a {TEMPLATE_FILE}"
            )
        text = render_chat(
            self.chat_templates[template],
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables={**self.special_tokens, **(variables or {})},
        )
        return self.backend.encode(text, add_special_tokens=False).ids  # the template writes them itself

    def decode(self, ids: TokenIds) -> str:
        """Text of `ids` without special tokens. Ids outside the vocabulary have no text."""
        return self.backend.decode(_as_ids(ids), skip_special_tokens=True)

    def stream(self) -> "StreamDecoder":
        """A decoder for ids that come a few at a time."""
        return StreamDecoder(self)

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)


class StreamDecoder:
    """Decodes ids as they come: the pieces from `push` and `finish` join to `Tokenizer.decode` of them all.

    A piece is held back while later ids can still change it: the bytes of an unfinished character, or a run
    of byte-fallback tokens. The work per id does not grow with the number of ids before it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend = tokenizer.backend
        self._backend = backend
        self._skipped = {
            number for number, token in backend.get_added_tokens_decoder().items() if token.special
        }
        kinds = _decoder_kinds(backend)
        self._text = _ByteLevelText() if kinds == ["ByteLevel"] else _WindowText(backend, kinds)

    def push(self, ids: TokenIds) -> str:
        """The text that `ids` complete; possibly empty."""
        pieces = []
        for token in _as_ids(ids):
            text = None if token in self._skipped else self._backend.id_to_token(token)
            if text is not None:
                pieces.append(self._text.push(text))
        return "".join(pieces)

    def finish(self) -> str:
        """The text held back until now; call it once, after the last id."""
        return self._text.finish()


class _ByteLevelText:
    """Text of byte-level tokens, each of which stands for bytes that may be part of a character."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: str) -> str:
        try:
            data = bytes(_BYTE_OF[character] for character in token)
        except KeyError:  # an added token, whose text stands for itself
            data = token.encode()
        return self._utf8.decode(data)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowText:
    """Text of tokens whose spelling depends on the one before: what each adds to its predecessor's text."""

    def __init__(self, backend: tokenizers.Tokenizer, kinds: Sequence[str]) -> None:
        decoder = backend.decoder
        self._decode: Callable[[list[str]], str] = " ".join if decoder is None else decoder.decode
        self._has_byte_tokens = "ByteFallback" in kinds
        self._may_split_characters = "ByteLevel" in kinds
        self._last: list[str] = []
        self._held: list[str] = []

    def push(self, token: str) -> str:
        self._held.append(token)
        # A run of byte tokens becomes text as a whole: one invalid byte spoils its neighbours too.
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(token):
            return ""
        before, text = self._decode(self._last), self._decode(self._last + self._held)
        unfinished = self._may_split_characters and text.endswith("\N{REPLACEMENT CHARACTER}")
        if not text.startswith(before) or (unfinished and len(self._held) < _LONGEST_SPLIT):
            return ""
        self._last, self._held = [token], []
        return text[len(before) :]

    def finish(self) -> str:
        before, text = self._decode(self._last), self._decode(self._last + self._held)
        self._held = []
        return text[len(before) :]


# A byte-level token is at least one byte, and no character has more than four.
_LONGEST_SPLIT = 4
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


def _byte_level_alphabet() -> dict[str, int]:
    """Character to byte in byte-level vocabularies: printable Latin-1 is itself, the rest starts at 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()


def why_no_tokenizer(directory: str | Path) -> str:
    """Why `Tokenizer.load` gave None for `directory`, and what to do, for an error message."""
    directory = Path(directory)
    known = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    others = [name for name in known if (directory / name).exists()]
    if not others:
        return f"{directory} has no {TOKENIZER_FILE}; pass token ids instead of text"
    place = repr(str(directory))
    return (
        f"{directory} has no {TOKENIZER_FILE}, only {others[0]}, which is read by converting it once: "
        f"transformers.AutoTokenizer.from_pretrained({place}).save_pretrained({place}); "
        "or pass token ids instead of text"
    )


def _decoder_kinds(backend: tokenizers.Tokenizer) -> list[str]:
    """Types of the tokenizer's decoders in order, sequences flattened."""
    if backend.decoder is None:
        return []
    waiting, kinds = [json.loads(backend.decoder.__getstate__())], []
    while waiting:
        state = waiting.pop(0)
        if state["type"] == "Sequence":
            waiting = state["decoders"] + waiting
        else:
            kinds.append(state["type"])
    return kinds


def _unbounded(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Turns off the truncation and padding that some checkpoints were saved with."""
    backend.no_truncation()
    backend.no_padding()
    return backend


def _as_ids(ids: TokenIds) -> list[int]:
    return np.asarray(ids).tolist()


def _special_tokens(config: Mapping[str, Any], file: Path) -> dict[str, str]:
    """The special tokens that a configuration names, each as a string or as an object with "content"."""
    found = {}
    for role, value in config.items():
        token = value.get("content") if isinstance(value, Mapping) else value
        if not role.endswith("_token") or token is None or isinstance(token, bool):
            continue  # another setting, no such token, or a switch such as add_bos_token
        if not isinstance(token, str):
            raise CheckpointError(f"{file}: {role} is {value!r}; it must be a string or hold 'content'")
        found[role] = token
    return found


def _chat_templates(config: Mapping[str, Any], files: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Chat templates by name: from files of their own where there are any, else from a configuration."""
    prefix = f"{TEMPLATES_DIRECTORY}/"
    own = {Path(name).stem: text for name, text in files.items() if name.startswith(prefix)}
    if TEMPLATE_FILE in files:
        own["default"] = files[TEMPLATE_FILE]
    if own:
        return own
    file, value = CONFIG_FILE, config.get("chat_template")
    if value is None and TEMPLATE_JSON_FILE in files:
        file = TEMPLATE_JSON_FILE
        value = read_json_object(directory / file).get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:  # the older form: a list of names and templates
        return {entry["name"]: _text(entry["template"]) for entry in value}
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{directory / file}: chat_template is {value!r}; it must be a string or a list of objects with "
            "'name' and 'template'"
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
