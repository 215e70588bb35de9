"""Tokenizers: round trips, parity with transformers, and streams that join to the whole text."""

import json
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.tokenizer import _BYTE_OF, StreamDecoder, Tokenizer, why_no_tokenizer

CORPUS = ["the cat sat on the mat", "naïve café, Zürich: 日本語 🙂🙂", "def f(x):\n    return x  # 1 2 3"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


@cache
def byte_level() -> Tokenizer:
    """A byte-level BPE with every byte, special tokens, and added tokens that are text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<tool>", " two  spaces ", "éĠ", "日本"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return Tokenizer.from_backend(backend, special_tokens=ROLES, chat_template=TEMPLATE)


@cache
def sentencepiece_like(strip: bool) -> Tokenizer:
    """Llama's and Gemma's scheme: a marker for spaces, bytes for what the vocabulary lacks."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", *"abcé日"]
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


@cache
def other_decoder(name: str) -> Tokenizer:
    pieces = [
        "[UNK]",
        "a",
        "b",
        "##a",
        "##b",
        "▁a",
        "▁",
        ",",
        "a</w>",
        "b</w>",
        "Ġ",
        "Ċ",
        "â",
        "Ĥ",
        "¬",
        "[S]",
    ]
    backend = tokenizers.Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    made = {
        "wordpiece": decoders.WordPiece(prefix="##", cleanup=True),
        "metaspace": decoders.Metaspace(),
        "suffix": decoders.BPEDecoder(suffix="</w>"),
        "byte-level and strip": decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]),
        "none": None,
    }[name]
    if made is not None:
        backend.decoder = made
    backend.add_special_tokens(["[S]"])
    return Tokenizer.from_backend(backend)


OTHERS = ["wordpiece", "metaspace", "suffix", "byte-level and strip", "none"]


def streamed(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> str:
    stream = StreamDecoder(tokenizer)
    bounds = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    pieces = [stream.push(ids[start:stop]) for start, stop in pairwise(bounds)]
    return "".join(pieces) + stream.finish()


CUTS = st.lists(st.integers(0, 40), max_size=6)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 309), max_size=40), cuts=CUTS)
def test_any_stream_of_byte_level_ids_joins_to_the_text(ids: list[int], cuts: list[int]) -> None:
    assert streamed(byte_level(), ids, cuts) == byte_level().decode(ids)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=12), cuts=CUTS)
@example(data=b"\xe2\x82A", cuts=[])
@example(data=b"\xf0\x9f\x99", cuts=[1, 2])
@example(data=b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80", cuts=[1, 2, 3])
def test_any_stream_of_bytes_joins_to_the_text(data: bytes, cuts: list[int]) -> None:
    tokenizer = byte_level()
    letters = {byte: letter for letter, byte in _BYTE_OF.items()}
    ids = [tokenizer.backend.token_to_id(letters[byte]) for byte in data]
    assert tokenizer.decode(ids) == data.decode(errors="replace")
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30), cuts=CUTS)
def test_text_survives_encoding_and_streaming(text: str, cuts: list[int]) -> None:
    tokenizer = byte_level()
    ids = tokenizer.backend.encode(text).ids
    if not any(token in text for token in (*ROLES.values(), "<|user|>")):
        assert tokenizer.decode(ids) == text
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids)


@pytest.mark.parametrize("strip", [True, False])
@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.one_of(st.integers(256, 275), st.integers(0, 275), st.integers(68, 72)), max_size=30),
    cuts=CUTS,
)
def test_any_stream_of_sentencepiece_ids_joins_to_the_text(
    strip: bool, ids: list[int], cuts: list[int]
) -> None:
    tokenizer = sentencepiece_like(strip)
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 17), max_size=20), cuts=CUTS)
def test_any_stream_of_other_decoders_joins_to_the_text(name: str, ids: list[int], cuts: list[int]) -> None:
    tokenizer = other_decoder(name)
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids)


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


def test_reading_what_was_saved(tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded is not None
    assert loaded.special_tokens == ROLES
    assert loaded.chat_templates == {"default": TEMPLATE}
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id, loaded.unk_id) == (0, 1, 2, None)
    assert loaded.vocab_size == byte_level().vocab_size
    text = "the café 🙂 </s> <tool>"
    assert loaded.encode(text) == byte_level().encode(text)
    again = tmp_path / "again"
    again.mkdir()
    loaded.save(again)
    for file in (path for path in tmp_path.iterdir() if path.is_file()):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_transformers_reads_what_is_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = byte_level()
    tokenizer.save(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the café 🙂 </s> <tool>  日本語\n"
    ids = tokenizer.encode(text)
    assert reference(text)["input_ids"] == ids
    assert reference.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert (reference.bos_token_id, reference.eos_token_id, reference.pad_token_id) == (0, 1, 2)
    messages = [{"role": "user", "content": "the mat"}]
    assert reference.apply_chat_template(messages)["input_ids"] == tokenizer.encode_chat(messages)


def test_reading_what_transformers_saves(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend, **ROLES, chat_template=TEMPLATE
    )
    reference.save_pretrained(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded is not None
    assert loaded.special_tokens == ROLES
    assert loaded.encode("the cat") == reference("the cat")["input_ids"]
    assert loaded.chat_templates == {"default": TEMPLATE}


def test_special_tokens_as_objects_and_in_the_older_file(tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    config = {"add_bos_token": True, "bos_token": {"content": "<s>", "lstrip": False}, "unk_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    older = {
        "bos_token": "<pad>",
        "eos_token": {"content": "</s>"},
        "additional_special_tokens": ["<|user|>"],
    }
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
    loaded = Tokenizer.load(tmp_path)
    assert loaded is not None
    assert loaded.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_where_chat_templates_come_from(tmp_path: Path) -> None:
    byte_level().save(tmp_path)

    def templates() -> dict[str, str]:
        loaded = Tokenizer.load(tmp_path)
        assert loaded is not None
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        loaded.save(copy)
        again = Tokenizer.load(copy)
        assert again is not None
        assert again.chat_templates == loaded.chat_templates
        return dict(loaded.chat_templates)

    (tmp_path / "chat_template.jinja").unlink()
    assert templates() == {}
    (tmp_path / "chat_template.json").write_text('{"chat_template": "A"}')
    assert templates() == {"default": "A"}
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "B"}')
    assert templates() == {"default": "B"}
    listed = [{"name": "default", "template": "C"}, {"name": "tool_use", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert templates() == {"default": "C", "tool_use": "D"}
    (tmp_path / "chat_templates").mkdir()
    (tmp_path / "chat_templates" / "rag.jinja").write_text("E")
    (tmp_path / "chat_template.jinja").write_text("F\r\n")
    assert templates() == {"default": "F\r\n", "rag": "E"}


def test_chats_choose_their_template(tmp_path: Path) -> None:
    byte_level().save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    listed = [{"name": "default", "template": "the"}, {"name": "tool_use", "template": "cat"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded is not None
    messages = [{"role": "user", "content": "x"}]
    assert loaded.decode(loaded.encode_chat(messages)) == "the"
    assert loaded.decode(loaded.encode_chat(messages, tools=[{"name": "f"}])) == "cat"
    assert loaded.decode(loaded.encode_chat(messages, template="tool_use")) == "cat"
    with pytest.raises(CheckpointError, match=r"no chat template 'rag', only \['default', 'tool_use'\]"):
        loaded.encode_chat(messages, template="rag")


def test_chats_have_one_beginning() -> None:
    ids = byte_level().encode_chat([{"role": "user", "content": "the mat"}])
    assert ids.count(byte_level().bos_id) == 1
    assert byte_level().decode(ids) == "the mat"


def test_arrays_decode_as_lists_do() -> None:
    ids = byte_level().encode("the cat")
    for array in (np.array(ids), jnp.array(ids, jnp.int32), tuple(ids)):
        assert byte_level().decode(array) == "the cat"
        assert byte_level().stream().push(array) == "the cat"
    assert byte_level().decode([]) == ""
    assert byte_level().decode([*ids, 10_000]) == "the cat"


def test_saved_truncation_is_not_applied(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level().backend.to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert loaded is not None
    assert loaded.encode("the cat sat") == byte_level().encode("the cat sat")


def test_added_tokens_that_are_not_special_are_decoded() -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level().backend.to_str())
    backend.add_tokens([AddedToken("<think>", special=False)])
    tokenizer = Tokenizer.from_backend(backend)
    assert tokenizer.decode(tokenizer.encode("<think>the cat")) == "<think>the cat"


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    assert Tokenizer.load(tmp_path) is None
    assert "pass token ids" in why_no_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    assert Tokenizer.load(tmp_path) is None
    assert "only tokenizer.model" in why_no_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0"}', r"tokenizer\.json is not a tokenizer"),
        ("tokenizer.json", b"\xff\xfe", r"tokenizer\.json cannot be read as UTF-8"),
        ("tokenizer_config.json", b"{", r"tokenizer_config\.json is not valid JSON"),
        ("tokenizer_config.json", b'{"eos_token": 3}', "eos_token is 3; it must be a string"),
        ("tokenizer_config.json", b'{"chat_template": 3}', r"tokenizer_config\.json: chat_template is 3"),
        (
            "chat_template.json",
            b'{"chat_template": [{"name": "a"}]}',
            r"chat_template\.json: chat_template is \[",
        ),
        ("special_tokens_map.json", b"[]", r"special_tokens_map\.json holds a JSON list"),
    ],
)
def test_refuses_corrupt_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    byte_level().save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(tmp_path)


def test_refuses_a_special_token_outside_the_vocabulary() -> None:
    with pytest.raises(CheckpointError, match="eos_token '<nowhere>' is not in"):
        Tokenizer.from_backend(byte_level().backend, special_tokens={"eos_token": "<nowhere>"})
