"""Tokenizers of Hugging Face checkpoints: text and chats to ids, ids to text at once or as they come."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tokenizers

from jaxmodels.checkpoints.arguments import check_path
from jaxmodels.checkpoints.chat_messages import Message
from jaxmodels.checkpoints.chat_templates import (
    TEMPLATE_FILE,
    TEMPLATE_JSON_FILE,
    choose_template,
    read_chat_templates,
)
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import parse_json_object
from jaxmodels.checkpoints.special_tokens import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    add_named_tokens,
    read_named_tokens,
)
from jaxmodels.checkpoints.stream_decoder import StreamDecoder, bytes_of_tokens, clean_up
from jaxmodels.checkpoints.token_inputs import TokenIds, as_ids, check_text, hidden_ids
from jaxmodels.checkpoints.tokenizer_conversion import converted_files, source_of, why_not_converted
from jaxmodels.checkpoints.tokenizer_files import TOKENIZER_FILE, read_tokenizer_files
from jaxmodels.checkpoints.tokenizer_limits import backend_failures, check_growth, check_ids
from jaxmodels.checks import shown


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer and what its checkpoint says about it; made by `load` or `from_backend`.

    Attributes:
        backend: the `tokenizers.Tokenizer`, without truncation and padding, with the tokens that the
            checkpoint's other files name.
        special_tokens: text of the special tokens by role ("bos_token", "eos_token", "pad_token",
            "unk_token", and what else the checkpoint names), for those that it has.
        chat_templates: Jinja sources by name; the usual one is "default".
        files: the tokenizer's files, by path relative to the checkpoint, as `save` writes them.
        cleans_up_spaces: decoded text has no space before punctuation.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    chat_templates: Mapping[str, str]
    files: Mapping[str, str] = field(repr=False)
    cleans_up_spaces: bool = False

    @classmethod
    def load(cls, directory: str | Path) -> Self | None:
        """Reads the tokenizer of a checkpoint directory.

        Without `tokenizer.json` it is made of the vocabulary files that there are: those of GPT-2 and BERT
        directly, SentencePiece models and others with the extra ``jaxmodels[convert]``.

        Returns:
            None when there is no tokenizer, or it cannot be made here; `why_no_tokenizer` says why.

        Raises:
            CheckpointError: a tokenizer file is corrupt, or asks for more than any real one.
        """
        check_path("directory", directory)
        directory = Path(directory)
        is_there = (directory / TOKENIZER_FILE).is_file()
        files = read_tokenizer_files(directory) if is_there else converted_files(directory)
        return None if files is None else cls._from_files(files, directory)

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
            special_tokens: text by role, such as ``{"eos_token": "<|endoftext|>"}``; they leave no text when
                decoded.
            chat_template: Jinja source.

        Raises:
            CheckpointError: a special token is not in the vocabulary.
            ValueError: the backend is of another kind, or a special token or the template is no text.
        """
        if not isinstance(backend, tokenizers.Tokenizer):
            raise ValueError(f"backend must be a tokenizers.Tokenizer, got {shown(backend)}")
        if not isinstance(special_tokens, Mapping | None):
            raise ValueError(f"special_tokens must map roles to texts, got {shown(special_tokens)}")
        special_tokens = dict(special_tokens or {})
        for role, token in special_tokens.items():
            check_text(token, f"special_tokens[{role!r}]")
            if backend.token_to_id(token) is None:
                raise CheckpointError(f"{role} {token!r} is not in the tokenizer's vocabulary; add it first")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **special_tokens}
        files = {
            TOKENIZER_FILE: backend.to_str(pretty=True),
            CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        }
        if chat_template is not None:
            check_text(chat_template, "chat_template")
            files[TEMPLATE_FILE] = chat_template
        return cls._from_files(files, Path())

    @classmethod
    def _from_files(cls, files: Mapping[str, str], directory: Path) -> Self:
        """The tokenizer that the files make; `directory` is where they are, for messages."""
        place = directory / TOKENIZER_FILE
        content = parse_json_object(files[TOKENIZER_FILE], place)
        check_growth(content, str(place))
        check_ids(content, str(place))
        with backend_failures(f"{place} is not a tokenizer that `tokenizers` {tokenizers.__version__} reads"):
            backend = tokenizers.Tokenizer.from_str(files[TOKENIZER_FILE])
        configs = {
            name: parse_json_object(files[name], directory / name)
            for name in (CONFIG_FILE, TEMPLATE_JSON_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)
            if name in files
        }
        named = read_named_tokens(configs, directory)
        add_named_tokens(backend, named)
        config = configs.get(CONFIG_FILE, {})
        backend.no_truncation()  # some checkpoints were saved with the lengths of their training
        backend.no_padding()
        backend.encode_special_tokens = config.get("split_special_tokens") is True
        return cls(
            backend=backend,
            special_tokens=named.texts,
            chat_templates=read_chat_templates(files, configs, directory),
            files=files,
            cleans_up_spaces=_cleans_up_spaces(config, backend),
        )

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer's files, byte for byte as they were read."""
        check_path("directory", directory)
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

    @property
    def mask_id(self) -> int | None:
        """Id of the token that stands for an unknown one; None without one."""
        return self._id("mask_token")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, with the special tokens that the checkpoint puts around every text.

        Raises:
            ValueError: it is not a string, or has half of a surrogate pair.
        """
        check_text(text, "text")
        with backend_failures("this tokenizer cannot encode this text"):
            return self.backend.encode(text).ids

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation in the checkpoint's chat format; arguments as for `render_chat`.

        Args:
            messages: the conversation.
            add_generation_prompt: end with the header of the assistant's next message.
            continue_final_message: end with the last message's text instead, for the model to go on with.
            tools: JSON schemas of the functions that the model may call.
            documents: for templates that answer from documents.
            template: name of one of `chat_templates`, or a Jinja source of one's own; by default "tool_use"
                if tools are given and the checkpoint has it, else "default".
            variables: further names that the template may use.

        Raises:
            CheckpointError: the checkpoint has no such template, or the template rejects the messages.
            ValueError: a text has half of a surrogate pair.
        """
        from jaxmodels.checkpoints.chat import render_chat  # Jinja, which plain prompts start without

        name, source = choose_template(self.chat_templates, template, for_tools=tools is not None)
        text = render_chat(
            source,
            messages,
            name=name,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            documents=documents,
            variables={**self.special_tokens, **(variables or {})},
        )
        check_text(text, f"what chat template {name!r} wrote")
        with backend_failures("this tokenizer cannot encode this conversation"):
            # The template writes the special tokens itself.
            return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: TokenIds, *, hidden: Collection[int] = ()) -> str:
        """Text of `ids` without special tokens. Ids outside the vocabulary have no text.

        Args:
            ids: the token ids.
            hidden: further ids without text: those at which generation ends, for instance, which not every
                checkpoint flags as special.

        Raises:
            ValueError: an id is no integer, negative, or beyond int32.
        """
        unseen = hidden_ids(hidden)
        kept = [number for number in as_ids(ids) if number not in unseen]
        with backend_failures("this tokenizer cannot decode these ids"):
            text = self.backend.decode(kept, skip_special_tokens=True)
        return clean_up(text) if self.cleans_up_spaces else text

    def stream(self, *, hidden: Collection[int] = ()) -> StreamDecoder:
        """A decoder for ids that come a few at a time; `hidden` as for `decode`."""
        skipped = self._special_ids() | hidden_ids(hidden)
        return StreamDecoder(self.backend, skipped=skipped, cleans_up_spaces=self.cleans_up_spaces)

    def token_bytes(self) -> list[bytes]:
        """The UTF-8 bytes that each id adds to a text that has begun and goes on; none for special tokens.

        Bytes, because a token may be part of a character. A text's first and last token may add less.
        """
        table = bytes_of_tokens(self.backend)
        for number in self._special_ids():
            table[number] = b""
        return table

    def special_texts(self) -> dict[int, str]:
        """The special tokens, which text does not show, by id."""
        added = self.backend.get_added_tokens_decoder()
        return {number: token.content for number, token in added.items() if token.special}

    def _special_ids(self) -> set[int]:
        return set(self.special_texts())

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)


def why_no_tokenizer(directory: str | Path) -> str:
    """Why `Tokenizer.load` gave None for `directory`, and what to do, for an error message."""
    directory = Path(directory)
    if source_of(directory) is None:
        return f"{directory} has no {TOKENIZER_FILE}; pass token ids instead of text"
    return f"{why_not_converted(directory)}; or pass token ids instead of text"


def _cleans_up_spaces(config: Mapping[str, Any], backend: tokenizers.Tokenizer) -> bool:
    """As `transformers` decides since its version 5: never for byte-pair encoding, unless forced to."""
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    is_bpe = isinstance(backend.model, tokenizers.models.BPE)
    return config.get("clean_up_tokenization_spaces") is True and (not is_bpe or config.get(forced) is True)
