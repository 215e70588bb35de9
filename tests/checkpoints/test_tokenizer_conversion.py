"""Checkpoints without `tokenizer.json`: other files give the tokenizer that transformers makes of them."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizer_helpers import CORPUS
from tokenizers import models, pre_tokenizers, trainers

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.tokenizer import Tokenizer, why_no_tokenizer

TEXTS = [
    "the cat sat",
    "  Zürich  日本語 🙃\n\tx 1234",
    "<s>the</s> cat<pad>",
    "[CLS] the mat. <|endoftext|>!",
    "",
]
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_config(directory: Path, config: dict[str, Any], family: str | None = None) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if family is not None:
        (directory / "config.json").write_text(json.dumps({"model_type": family}))


def write_sentencepiece(directory: Path, kind: str, name: str = "tokenizer") -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 10),
        model_prefix=str(directory / name),
        model_type=kind,
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
    )


def train_byte_level(directory: Path, special: list[str]) -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.model.save(str(directory))


def check_against_transformers(directory: Path, texts: list[str] = TEXTS) -> Tokenizer:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer = Tokenizer.load(directory)
    assert tokenizer is not None
    assert tokenizer.backend.get_vocab() == reference.get_vocab()
    assert dict(tokenizer.special_tokens) == reference.special_tokens_map
    for text in texts:
        ids = reference(text)["input_ids"]
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        stream = tokenizer.stream()
        assert stream.push(ids) + stream.finish() == tokenizer.decode(ids)
    copy = directory / "copy"
    copy.mkdir()
    tokenizer.save(copy)
    again = Tokenizer.load(copy)
    assert again is not None
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    return tokenizer


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, "llama"),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "legacy": False}, None),
        ({"tokenizer_class": "GemmaTokenizer"}, "gemma"),
        ({}, "mistral"),
    ],
    ids=["llama", "fast", "gemma", "mistral"],
)
def test_sentencepiece(kind: str, config: dict[str, Any], family: str | None, tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, kind)
    write_config(tmp_path, ROLES | config, family)
    check_against_transformers(tmp_path)


def test_sentencepiece_under_another_name(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, "unigram", "spiece")
    write_config(tmp_path, {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    check_against_transformers(tmp_path)


def tiktoken_ranks() -> dict[bytes, int]:
    pieces = [bytes([byte]) for byte in range(256)]
    return {piece: rank for rank, piece in enumerate([*pieces, b"th", b"the", b" c", b" ca", b" cat", b"at"])}


def test_tiktoken(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    lines = [base64.b64encode(piece) + b" %d" % rank for piece, rank in tiktoken_ranks().items()]
    (tmp_path / "tiktoken.model").write_bytes(b"\n".join(lines) + b"\n")
    special = {"content": "</s>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    write_config(
        tmp_path,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "</s>",
            "added_tokens_decoder": {"264": special | {"single_word": False}},
        },
    )
    assert check_against_transformers(tmp_path).eos_id == 264


def test_tekken(tmp_path: Path) -> None:
    special = ["<unk>", "<s>", "</s>", "[INST]"]
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
        for piece, rank in tiktoken_ranks().items()
    ]
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
        "num_vocab_tokens": len(vocabulary),
        "default_vocab_size": len(vocabulary) + len(special),
        "default_num_special_tokens": len(special),
        "version": "v3",
    }
    tokens = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)]
    (tmp_path / "tekken.json").write_text(
        json.dumps({"config": config, "vocab": vocabulary, "special_tokens": tokens})
    )
    write_config(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast"}, "mistral")
    check_against_transformers(tmp_path)


BYTE_LEVEL = {
    "gpt2": ({}, "gpt2"),
    "opt": (
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": True,
            **{
                role: {"__type": "AddedToken", "content": "</s>", "normalized": True}
                for role in ("unk_token", "bos_token", "eos_token")
            },
            "pad_token": "<pad>",
        },
        "opt",
    ),
    "fast": ({"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True, "add_eos_token": True}, None),
}


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_gpt2_files(name: str, tmp_path: Path) -> None:
    config, family = BYTE_LEVEL[name]
    train_byte_level(tmp_path, ["</s>", "<pad>", "<|endoftext|>"])
    write_config(tmp_path, config, family)
    (tmp_path / "added_tokens.json").write_text('{"<tool>": 300}')
    check_against_transformers(tmp_path)


def test_classes_with_the_same_files_differ(tmp_path: Path) -> None:
    train_byte_level(tmp_path, ["<|endoftext|>"])
    write_config(tmp_path, {"tokenizer_class": "Qwen2Tokenizer"}, "qwen2")
    tokenizer = check_against_transformers(tmp_path)
    numbers = tokenizer.encode("1234")
    assert len(numbers) == 4  # one digit at a time


@pytest.mark.parametrize(
    "config",
    [{}, {"do_lower_case": False}, {"strip_accents": False, "tokenize_chinese_chars": False}],
    ids=["usual", "cased", "switches"],
)
def test_bert_files(config: dict[str, Any], tmp_path: Path) -> None:
    backend = tokenizers.BertWordPieceTokenizer()
    backend.train_from_iterator(CORPUS, vocab_size=120, show_progress=False)
    backend.save_model(str(tmp_path))
    write_config(tmp_path, {"tokenizer_class": "BertTokenizer"} | config)
    check_against_transformers(tmp_path)


def test_vocabulary_files_need_no_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_byte_level(tmp_path, ["<|endoftext|>"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert Tokenizer.load(tmp_path / "nowhere") is None
    with pytest.warns(
        UserWarning, match=r"vocab.json cannot be converted here: transformers is not installed"
    ):
        assert Tokenizer.load(tmp_path) is None
    write_config(tmp_path, {}, "gpt2")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "spiece.model", "tiktoken.model", "tekken.json", "vocab.json"]
)
def test_says_what_it_cannot_convert(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.warns(
        UserWarning, match=rf"{name} cannot be converted here: transformers says: .*AutoTokenizer"
    ):
        assert Tokenizer.load(tmp_path) is None
    assert name in why_no_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'jaxmodels[convert]'" in why_no_tokenizer(tmp_path)
    assert "pass token ids" in why_no_tokenizer(tmp_path)


def test_a_class_without_its_vocabulary_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    write_config(tmp_path, {"tokenizer_class": "LlamaTokenizer"})
    with pytest.warns(UserWarning, match=r"LlamaTokenizer of transformers finds no vocabulary in it"):
        assert Tokenizer.load(tmp_path) is None


def test_runs_no_code_of_a_checkpoint(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, "bpe")
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    write_config(
        tmp_path,
        {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}},
    )
    with pytest.warns(UserWarning, match=r"transformers says: .*contains custom code"):
        assert Tokenizer.load(tmp_path) is None


@pytest.mark.parametrize(
    ("vocab", "merges"), [("{", "a b"), ('{"a": 0}', "a b"), ("[]", ""), ('{"a": -1}', "")]
)
def test_refuses_corrupt_vocabularies(vocab: str, merges: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    write_config(tmp_path, {}, "gpt2")
    with pytest.raises(
        CheckpointError, match=r"vocab.json and .*merges.txt are no vocabulary of a GPT2Tokenizer"
    ):
        Tokenizer.load(tmp_path)
