"""Streams of ids join to the text of all ids, for every decoder that `tokenizers` has."""

import random
import time
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_helpers import ROLES, byte_level
from tokenizers import Regex, decoders, models, normalizers

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.stream_decoder import StreamDecoder
from jaxmodels.checkpoints.tokenizer import Tokenizer

CUTS = st.lists(st.integers(0, 40), max_size=6)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@cache
def sentencepiece_like(strip: bool) -> Tokenizer:
    """Llama's and Gemma's scheme: a marker for spaces, bytes for what the vocabulary lacks."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, "▁", "▁▁", *"abcé日"]
    pieces += ["▁a", "▁b", "ab", "▁ab", "\N{REPLACEMENT CHARACTER}", "<0x", "<0xZZ>"]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {piece: number for number, piece in enumerate(pieces)},
            [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "ab"), ("▁", "▁")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    backend.add_special_tokens(["<s>", "</s>"])
    return Tokenizer.from_backend(backend)


AWKWARD = [
    *(
        "a",
        "b",
        "##a",
        "##b",
        "▁a",
        "▁",
        "▁▁",
        ",",
        "n't",
        "'",
        "a</w>",
        "b</w>",
        "</w>",
        "Ġ",
        "Ċ",
        "â",
        "Ĥ",
        "¬",
    ),
    *(
        "<pad>",
        "|",
        " ",
        "  ",
        "a b",
        "é",
        "日",
        "<0xE6>",
        "<0x97>",
        "<0xA5>",
        "<0xe6>",
        "<0x+1>",
        "<0xZZ>",
        "",
    ),
    "[S]",
]


@cache
def with_decoder(decoder: Any, model: Any = models.WordLevel) -> Tokenizer:
    backend = tokenizers.Tokenizer(model({piece: i for i, piece in enumerate(AWKWARD)}, unk_token="a"))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["[S]"])
    return Tokenizer.from_backend(backend)


SINGLE = {
    "none": None,
    "ByteLevel": decoders.ByteLevel(),
    "WordPiece": decoders.WordPiece(prefix="##", cleanup=True),
    "WordPiece without clean-up": decoders.WordPiece(prefix="##", cleanup=False),
    "ByteFallback": decoders.ByteFallback(),
    "Metaspace": decoders.Metaspace(),
    "Metaspace first": decoders.Metaspace(prepend_scheme="first"),
    "Metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "BPEDecoder": decoders.BPEDecoder(suffix="</w>"),
    "CTC": decoders.CTC(),
    "CTC without clean-up": decoders.CTC(cleanup=False),
    "Strip": decoders.Strip(" ", 1, 0),
    "Replace": decoders.Replace("▁", " "),
    "Replace longer": decoders.Replace("a b", "ab"),
    "Replace by pattern": decoders.Replace(Regex(" +"), "_"),
    "Fuse": decoders.Fuse(),
}
CHAINS = {
    "ByteLevel, Strip": [SINGLE["ByteLevel"], SINGLE["Strip"]],
    "Fuse, Strip two": [SINGLE["Replace"], SINGLE["Fuse"], decoders.Strip(" ", 2, 0)],
    "Fuse, Replace": [SINGLE["Fuse"], decoders.Replace("aab", "b"), decoders.Replace("▁▁", "-")],
    "Fuse, Replace by pattern": [SINGLE["Fuse"], SINGLE["Replace by pattern"]],
    "Fuse, WordPiece": [SINGLE["Fuse"], SINGLE["WordPiece"]],
    "Fuse, ByteLevel": [SINGLE["Fuse"], SINGLE["ByteLevel"]],
    "CTC, WordPiece": [SINGLE["CTC"], SINGLE["WordPiece"]],
    "ByteFallback, Metaspace": [SINGLE["ByteFallback"], SINGLE["Metaspace"]],
    "ByteFallback, Strip": [SINGLE["ByteFallback"], decoders.Strip("\N{REPLACEMENT CHARACTER}", 1, 0)],
    "BPEDecoder, WordPiece": [SINGLE["BPEDecoder"], SINGLE["WordPiece"]],
    "nested": [
        decoders.Sequence([SINGLE["Replace"], SINGLE["ByteFallback"]]),
        SINGLE["Fuse"],
        SINGLE["Strip"],
    ],
}
DECODERS = SINGLE | {name: decoders.Sequence(chain) for name, chain in CHAINS.items()}


def streamed(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> str:
    stream = tokenizer.stream()
    bounds = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    pieces = [stream.push(ids[start:stop]) for start, stop in pairwise(bounds)]
    return "".join(pieces) + stream.finish()


def check_random_streams(tokenizer: Tokenizer, count: int, seed: int) -> None:
    draw = random.Random(seed)
    size = tokenizer.vocab_size
    for _ in range(count):
        alphabet = draw.sample(range(size + 2), min(size, draw.choice([3, 8, 40])))
        ids = draw.choices(alphabet, k=draw.randrange(25))
        cuts = [draw.randrange(40) for _ in range(draw.randrange(6))]
        assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids), ids


@pytest.mark.parametrize("name", DECODERS)
def test_any_stream_joins_to_the_text(name: str) -> None:
    check_random_streams(with_decoder(DECODERS[name]), 400, seed=0)


@pytest.mark.sweep
@pytest.mark.parametrize("name", DECODERS)
def test_many_streams_join_to_the_text(name: str) -> None:
    check_random_streams(with_decoder(DECODERS[name]), 6_000, seed=1)


@pytest.mark.sweep
def test_streams_of_random_chains_join_to_the_text() -> None:
    draw = random.Random(2)
    for number in range(300):
        chain = draw.choices(
            [decoder for decoder in SINGLE.values() if decoder is not None], k=draw.randrange(2, 6)
        )
        check_random_streams(with_decoder(decoders.Sequence(chain)), 60, seed=number)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 309), max_size=40), cuts=CUTS)
def test_any_stream_of_byte_level_ids_joins_to_the_text(ids: list[int], cuts: list[int]) -> None:
    assert streamed(byte_level(), ids, cuts) == byte_level().decode(ids)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=12), cuts=CUTS)
@example(data=b"\xe2\x82A", cuts=[])
@example(data=b"\xf0\x9f\x99", cuts=[1, 2])
@example(data=b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80", cuts=[1, 2, 3])
def test_any_stream_of_bytes_joins_to_the_text(data: bytes, cuts: list[int]) -> None:
    tokenizer, table = byte_level(), byte_level().token_bytes()
    ids = [table.index(bytes([byte])) for byte in data]
    assert tokenizer.decode(ids) == data.decode(errors="replace")
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids)
    llama = sentencepiece_like(True)
    ids = [llama.backend.token_to_id(BYTES[byte]) for byte in data]
    assert streamed(llama, ids, cuts) == llama.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30), cuts=CUTS)
def test_text_survives_encoding_and_streaming(text: str, cuts: list[int]) -> None:
    tokenizer = byte_level()
    ids = tokenizer.backend.encode(text).ids
    if not any(token in text for token in (*ROLES.values(), "<|user|>")):
        assert tokenizer.decode(ids) == text
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids)


@pytest.mark.parametrize("strip", [True, False])
def test_any_stream_of_sentencepiece_ids_joins_to_the_text(strip: bool) -> None:
    check_random_streams(sentencepiece_like(strip), 500, seed=3)


@pytest.mark.parametrize("model", [models.WordLevel, models.BPE])
def test_spaces_are_cleaned_up_as_transformers_does(model: Any, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pieces = ["a", " .", " ", ".", " 's", "n't", "'", " ' "]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(
        model(vocabulary, unk_token="a")
        if model is models.WordLevel
        else model(vocabulary, [], unk_token="a")
    )
    backend.decoder = decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=True
    ).save_pretrained(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer is not None
    assert tokenizer.cleans_up_spaces == (model is models.WordLevel)
    draw = random.Random(4)
    for _ in range(300):
        ids = draw.choices(range(len(pieces)), k=12)
        assert tokenizer.decode(ids) == reference.decode(ids)
        assert streamed(tokenizer, ids, [3, 5, 6]) == tokenizer.decode(ids)


def test_hidden_ids_leave_no_text() -> None:
    ids = byte_level().encode("the<tool>cat")
    tool = byte_level().backend.token_to_id("<tool>")
    assert byte_level().decode(ids) == "the<tool>cat"
    assert byte_level().decode(ids, hidden={tool}) == "thecat"
    stream = byte_level().stream(hidden=[tool])
    assert stream.push(ids) + stream.finish() == "thecat"


@pytest.mark.parametrize(
    "name", ["none", "WordPiece", "Metaspace", "BPEDecoder", "Fuse, Strip two", "nested"]
)
def test_bytes_of_tokens_join_to_the_middle_of_a_text(name: str) -> None:
    tokenizer = with_decoder(DECODERS[name])
    table = tokenizer.token_bytes()
    draw = random.Random(5)
    for _ in range(200):
        inner = draw.choices(range(20), k=4)
        text = tokenizer.decode([0, *inner, 1])  # a text that has begun and goes on
        assert b"".join(table[number] for number in inner).decode() in text
    assert table[tokenizer.backend.token_to_id("[S]")] == b""


def test_bytes_of_byte_level_and_fallback_tokens() -> None:
    text = "the café 🙃!"
    table = byte_level().token_bytes()
    assert len(table) == byte_level().vocab_size
    assert b"".join(table[number] for number in byte_level().encode(text)) == text.encode()
    llama = sentencepiece_like(True)
    joined = b"".join(llama.token_bytes()[number] for number in llama.encode("ab aß b"))
    assert joined == " ab aß b".encode()


def test_text_comes_as_soon_as_it_is_complete() -> None:
    tokenizer = byte_level()
    stream = tokenizer.stream()
    pieces = [stream.push([token]) for token in tokenizer.encode("café 🙃!")]
    assert "".join(pieces) == "café 🙃!"
    assert pieces[0] == ""  # <s>
    assert pieces[1] == "c"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    llama = sentencepiece_like(True).stream()
    ids = sentencepiece_like(True).encode("ab aß b")
    assert [llama.push([token]) for token in ids] == ["a", "b", " a", "", "", "ß b"]


def test_streaming_costs_the_same_per_token_however_long() -> None:
    tokenizer = sentencepiece_like(True)
    ids = tokenizer.encode("ab a b日 " * 8000)

    def seconds(count: int) -> float:
        stream = tokenizer.stream()
        start = time.perf_counter()
        for token in ids[:count]:
            stream.push([token])
        return time.perf_counter() - start

    short, long = min(seconds(2000) for _ in range(3)), min(seconds(32000) for _ in range(2))
    assert long < 16 * short * 3  # quadratic work would be 256 times


def test_a_decoder_that_panics_is_named() -> None:
    tokenizer = with_decoder(decoders.Strip(" ", 1, 1))
    space = tokenizer.backend.token_to_id(" ")
    with pytest.raises(CheckpointError, match="cannot decode these ids"):
        tokenizer.decode([space])
    stream = StreamDecoder(tokenizer.backend, skipped=(), cleans_up_spaces=False)
    with pytest.raises(CheckpointError, match="cannot decode these ids"):
        stream.push([space])
