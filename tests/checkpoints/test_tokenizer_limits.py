"""Tokenizer files that multiply their input are refused before they do; real ones are not."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizer_helpers import byte_level
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.tokenizer import Tokenizer

BOMBS: dict[str, dict[str, Any]] = {
    "normalizer": {
        "chain": normalizers.Sequence([normalizers.Replace("a", "aaaa")] * 20),
        "one": normalizers.Replace("a", "a" * 100_000),
        "pattern": normalizers.Sequence([normalizers.Replace(Regex(""), "b")] * 20),
        "prepended": normalizers.Sequence([normalizers.Prepend("a" * 50)] * 3),
        "bytes": normalizers.Sequence([normalizers.ByteLevel()] * 20),
        "nested": normalizers.Sequence([normalizers.Sequence([normalizers.Replace("a", "aa")] * 4)] * 4),
    },
    "decoder": {
        "chain": decoders.Sequence([decoders.Replace("a", "aa")] * 40),
        "spaces": decoders.Sequence([decoders.BPEDecoder(suffix="")] * 40),
    },
    "post_processor": {
        "many tokens": processors.TemplateProcessing("$A" + " <s>" * 5000, special_tokens=[("<s>", 0)]),
        "text again and again": processors.TemplateProcessing(["$A"] * 2000, special_tokens=[]),
        "squared": processors.Sequence([processors.TemplateProcessing(["$A"] * 50, special_tokens=[])] * 3),
    },
}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part in BOMBS for name in BOMBS[part]])
def test_refuses_a_part_that_multiplies_its_input(part: str, name: str, tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text()) | {part: json.loads(BOMBS[part][name].__getstate__())}
    # An added token is normalised when the file is read: too late to look then.
    content["added_tokens"].append(
        {"id": 1000, "content": "a" * 1000, "normalized": True, "special": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    )
    file.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=rf"tokenizer.json: {part} may make an input more than 1000 times"
    ):
        Tokenizer.load(tmp_path)


def test_refuses_a_table_that_multiplies_its_input(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    trainer = {"model_type": "unigram", "vocab_size": 20, "hard_vocab_limit": False}
    (tmp_path / "rules.tsv").write_text("61\t" + " ".join(["62"] * 2000) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["c d e f g"] * 10),
        model_prefix=str(tmp_path / "bomb"),
        normalization_rule_tsv=str(tmp_path / "rules.tsv"),
        minloglevel=2,
        **trainer,
    )
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((tmp_path / "bomb.model").read_bytes())
    backend = tokenizers.Tokenizer.from_str(byte_level().backend.to_str())
    backend.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    assert backend.normalizer.normalize_str("a") == "b" * 2000
    with pytest.raises(CheckpointError, match="normalizer may make an input more than 1000 times"):
        Tokenizer.from_backend(backend)


@pytest.mark.parametrize("number", [2**24, 2**31, 2**70, 1e30])
def test_refuses_an_id_that_no_vocabulary_reaches(number: float, tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["the"] = number
    file.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: the token 'the' has the id .* below 16777216"
    ):
        Tokenizer.load(tmp_path)


def test_an_expression_that_never_ends_is_named() -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level().backend.to_str())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    with pytest.raises(CheckpointError, match=r"this tokenizer cannot encode this text: .*retry-limit"):
        Tokenizer.from_backend(backend).encode("a" * 100 + "b")


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),  # Llama
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")]),
        normalizers.BertNormalizer(),
        normalizers.ByteLevel(),
    ],
)
def test_reads_the_normalizers_that_there_are(normalizer: Any) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level().backend.to_str())
    backend.normalizer = normalizer
    backend.add_tokens([AddedToken("a" * 10_000, normalized=True)])
    assert Tokenizer.from_backend(backend).encode("the cat")
