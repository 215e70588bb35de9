"""The tokenizer in a GGUF file: its vocabulary is stored, what is done to text before is known by name.

Two kinds are read: byte-level BPE ("gpt2") and SentencePiece's BPE ("llama"). Sources: the documentation of
GGUF's keys, and the tokenizers that the models' own repositories publish.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checkpoints.gguf.file import GGUFFile
from jaxmodels.checkpoints.tokenizer import Tokenizer

# Values of ``tokenizer.ggml.token_type``.
_CONTROL, _USER_DEFINED = 3, 4

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How text is cut before merging, by ``tokenizer.ggml.pre``; None is GPT-2's own pattern.
_SPLITS: dict[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "gpt2": None,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "lfm2": _LLAMA3,
    "falcon3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# Whether texts begin with the token for it, where the file does not say.
_ADDS_BOS = {"gpt2": False, "llama": True}


def load_tokenizer(file: GGUFFile) -> Tokenizer | None:
    """The tokenizer of a GGUF file; None where it has none, and with a warning where its kind is not read.

    Raises:
        CheckpointError: its parts do not fit each other.
    """
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind is None:
        return None
    split = file.metadata.get("tokenizer.ggml.pre", "default")
    if kind not in _ADDS_BOS or (kind == "gpt2" and split not in _SPLITS):
        warnings.warn(
            f"{file.path}: the tokenizer {kind!r} with pre-tokenizer {split!r} is not read; give token ids, "
            "or set a tokenizer with dataclasses.replace(model, tokenizer=...)",
            stacklevel=2,
        )
        return None
    tokens = [str(token) for token in file.metadata.get("tokenizer.ggml.tokens", ())]
    try:
        backend = (
            _byte_level(file, tokens, _SPLITS[split]) if kind == "gpt2" else _sentencepiece(file, tokens)
        )
        _add_tokens(file, backend, tokens)
        _add_frame(file, backend, tokens, default_bos=_ADDS_BOS[kind])
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{file.path}: the tokenizer's parts do not fit each other: {error}") from error
    return Tokenizer.from_backend(
        backend,
        special_tokens=_special_tokens(file, tokens),
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )


def generation_defaults(file: GGUFFile) -> GenerationDefaults:
    """Which tokens begin, end and fill texts; a message's end ends one too."""
    ends = (_id(file, "eos"), _id(file, "eot"), _id(file, "eom"))
    return GenerationDefaults(
        eos_token_ids=tuple(dict.fromkeys(token for token in ends if token is not None)),
        bos_token_id=_id(file, "bos"),
        pad_token_id=_id(file, "padding"),
    )


def _id(file: GGUFFile, role: str) -> int | None:
    token = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
    return None if token is None else int(token)


def _special_tokens(file: GGUFFile, tokens: Sequence[str]) -> dict[str, str]:
    found = {name: _id(file, role) for name, role in _ROLES.items()}
    return {name: tokens[i] for name, i in found.items() if i is not None and 0 <= i < len(tokens)}


def _byte_level(file: GGUFFile, tokens: Sequence[str], split: str | None) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [_pair(file, str(merge)) for merge in file.metadata.get("tokenizer.ggml.merges", ())]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if split is None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if split == _QWEN2:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(file: GGUFFile, merge: str) -> tuple[str, str]:
    first, space, second = merge.partition(" ")
    if not space:
        raise CheckpointError(
            f"{file.path}: 'tokenizer.ggml.merges' holds {merge!r}, which is no pair of tokens"
        )
    return first, second


def _sentencepiece(file: GGUFFile, tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """BPE over pieces in which ``▁`` is a space; the file holds scores in place of merges.

    As in llama.cpp, a space is put in front of a text and of what follows a control token.
    """
    is_gemma = file.architecture.startswith("gemma")
    # Gemma's files spell pieces of several spaces as such.
    pieces = ["▁" * len(t) if is_gemma and t and not t.strip(" ") else t for t in tokens]
    scores: Sequence[float] = file.metadata.get("tokenizer.ggml.scores", ())
    if is_gemma or len(scores) != len(pieces):
        scores = [-float(i) for i in range(len(pieces))]  # Gemma's pieces stand in the order of their merges
    vocab = {piece: i for i, piece in enumerate(pieces)}
    unknown = _id(file, "unknown")
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(vocab, scores),
            unk_token=None if unknown is None else pieces[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    replace = normalizers.Replace(" ", "▁")
    prefix = not is_gemma and bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return backend


def _merges(vocab: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the pieces by falling score.

    Of several ways to make one piece that comes first whose parts have the smaller ids.
    """
    found = []
    for piece, index in vocab.items():
        ways = [
            (vocab[piece[:cut]], vocab[piece[cut:]], piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in vocab and piece[cut:] in vocab
        ]
        found += [(-scores[index], order, way[2:]) for order, way in enumerate(sorted(ways))]
    # Stable: pieces of one score stay in the order of the vocabulary.
    return [pair for _, _, pair in sorted(found, key=lambda entry: entry[0])]


def _add_tokens(file: GGUFFile, backend: tokenizers.Tokenizer, tokens: Sequence[str]) -> None:
    """Control tokens become special, tokens that users defined stay whole."""
    kinds = file.metadata.get("tokenizer.ggml.token_type", ())
    for kind, special, add in (
        (_CONTROL, True, backend.add_special_tokens),
        (_USER_DEFINED, False, backend.add_tokens),
    ):
        add(
            [
                AddedToken(t, normalized=False, special=special)
                for t, k in zip(tokens, kinds, strict=False)
                if k == kind
            ]
        )


def _add_frame(
    file: GGUFFile, backend: tokenizers.Tokenizer, tokens: Sequence[str], default_bos: bool
) -> None:
    """Puts the tokens that begin and end every text around it."""
    bos, eos = _id(file, "bos"), _id(file, "eos")
    adds_bos = file.metadata.get("tokenizer.ggml.add_bos_token", default_bos) and bos is not None
    adds_eos = file.metadata.get("tokenizer.ggml.add_eos_token", False) and eos is not None
    if not adds_bos and not adds_eos:
        return
    around = [(tokens[i], i) for i, adds in ((bos, adds_bos), (eos, adds_eos)) if adds and i is not None]
    single = ([tokens[bos]] if adds_bos and bos is not None else []) + ["$A"]
    single += [tokens[eos]] if adds_eos and eos is not None else []
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
