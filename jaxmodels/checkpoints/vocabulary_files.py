"""Tokenizers of plain vocabulary files: GPT-2's and CLIP's pair of files, and BERT's list of word pieces.

Which class a checkpoint means decides how text is cut into words, so that other classes with the same files
are left to `transformers` (`tokenizer_conversion`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import parse_json_object
from jaxmodels.checkpoints.special_tokens import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    add_named_tokens,
    read_named_tokens,
)
from jaxmodels.checkpoints.tokenizer_limits import backend_failures

# Classes of families whose checkpoints may lack a tokenizer configuration.
_CLASS_OF_FAMILY = {"gpt2": "GPT2Tokenizer", "opt": "GPT2Tokenizer", "bert": "BertTokenizer"}


@dataclass(frozen=True)
class _Kind:
    """How one class of tokenizers is built.

    Attributes:
        files: the vocabulary files that it needs.
        roles: its special tokens where the checkpoint names no others.
        build: the tokenizer, from the paths of the files and the configuration.
        around: roles of the tokens before and after every text.
    """

    files: tuple[str, ...]
    roles: Mapping[str, str]
    build: Callable[[list[str], Mapping[str, Any]], tokenizers.Tokenizer]
    around: Callable[[Mapping[str, Any]], tuple[str | None, str | None]]


def build_from_vocabulary(
    directory: Path, texts: Mapping[str, str], family: str | None
) -> dict[str, str] | None:
    """`tokenizer.json` and `tokenizer_config.json` of a directory with vocabulary files, as texts by name.

    Args:
        directory: where the files are.
        texts: the tokenizer's other files, by name.
        family: "model_type" of the model's configuration.

    Returns:
        None when the files are of another class, or incomplete.

    Raises:
        CheckpointError: a file is corrupt.
    """
    configs = {
        name: parse_json_object(texts[name], directory / name)
        for name in (CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)
        if name in texts
    }
    name = configs.get(CONFIG_FILE, {}).get("tokenizer_class") or _CLASS_OF_FAMILY.get(family or "")
    kind = _KINDS.get(str(name).removesuffix("Fast"))
    paths = [directory / file for file in kind.files] if kind is not None else []
    if kind is None or not all(path.is_file() for path in paths):
        return None
    config = configs[CONFIG_FILE] = {**kind.roles, **configs.get(CONFIG_FILE, {})}
    with backend_failures(f"{' and '.join(map(str, paths))} are no vocabulary of a {name}"):
        backend = kind.build([str(path) for path in paths], config)
    named = read_named_tokens(configs, directory)
    add_named_tokens(backend, named)
    backend.post_processor = _around(backend, [named.texts.get(role or "") for role in kind.around(config)])
    return {"tokenizer.json": backend.to_str(), CONFIG_FILE: json.dumps(config, ensure_ascii=False, indent=2)}


def _around(backend: tokenizers.Tokenizer, tokens: list[str | None]) -> processors.TemplateProcessing:
    before, after = ([] if token is None else [token] for token in tokens)
    ids = [(token, backend.token_to_id(token)) for token in {*before, *after}]
    return processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)


def _byte_level_bpe(paths: list[str], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(
        models.BPE.from_file(*paths, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    )
    prefix = config.get("add_prefix_space") is True
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    return backend


# How CLIP's vocabulary cuts text: letters, single digits, and runs of anything else but space.
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _clip_bpe(paths: list[str], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    unknown = config.get("unk_token")
    text = unknown.get("content") if isinstance(unknown, Mapping) else unknown
    backend = tokenizers.Tokenizer(
        models.BPE.from_file(
            *paths,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=str(text),
        )
    )
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    return backend


def _word_pieces(paths: list[str], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    unknown = config.get("unk_token")
    text = unknown.get("content") if isinstance(unknown, Mapping) else unknown
    backend = tokenizers.Tokenizer(models.WordPiece.from_file(*paths, unk_token=str(text)))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_switch(config, "tokenize_chinese_chars", True),
        strip_accents=_switch(config, "strip_accents", None),
        lowercase=_switch(config, "do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _switch(config: Mapping[str, Any], key: str, default: bool | None) -> Any:
    value = config.get(key, default)
    if not isinstance(value, bool) and value is not default:
        raise CheckpointError(f"{CONFIG_FILE}: {key} is {value!r}; it must be true or false")
    return value


def _as_switched(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    begins, ends = config.get("add_bos_token") is True, config.get("add_eos_token") is True
    return "bos_token" if begins else None, "eos_token" if ends else None


_KINDS = {
    "GPT2Tokenizer": _Kind(
        files=("vocab.json", "merges.txt"),
        roles=dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        build=_byte_level_bpe,
        around=_as_switched,
    ),
    "CLIPTokenizer": _Kind(
        files=("vocab.json", "merges.txt"),
        roles={
            "bos_token": "<|startoftext|>",
            **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
        },
        build=_clip_bpe,
        around=lambda config: ("bos_token", "eos_token"),
    ),
    "BertTokenizer": _Kind(
        files=("vocab.txt",),
        roles={f"{role.lower()}_token": f"[{role}]" for role in ("UNK", "SEP", "PAD", "CLS", "MASK")},
        build=_word_pieces,
        around=lambda config: ("cls_token", "sep_token"),
    ),
}
