"""Tokenizers: round trips, parity with transformers, and what they refuse."""

import json
import random
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizer_helpers import ROLES, TEMPLATE, byte_level
from tokenizers import AddedToken

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.tokenizer import Tokenizer, why_no_tokenizer


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
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("E")
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
    assert loaded.decode(loaded.encode_chat(messages, tools=[])) == "cat"  # as in transformers
    assert loaded.decode(loaded.encode_chat(messages, template="{{ 'mat' }}")) == "mat"
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
    assert (
        byte_level().decode(np.int64(ids[1])) == byte_level().decode(ids[1]) == byte_level().decode([ids[1]])
    )
    assert byte_level().decode([np.int32(number) for number in ids]) == "the cat"
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
    assert "has no tokenizer.json" in why_no_tokenizer(tmp_path)


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
        (
            "tokenizer_config.json",
            b'{"chat_template": "a\\ud800"}',
            r"chat_template 'default' has half of a surr",
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


def test_named_templates_as_transformers_saves_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    templates = {
        "default": "the {{ messages[0].content }}",
        "tool_use": "cat {{ tools[0].name }}",
        "rag": "mat",
    }
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend, **ROLES, chat_template=templates
    ).save_pretrained(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded is not None
    assert loaded.chat_templates == templates
    loaded.save(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert reference.chat_template == templates
    messages, tools = [{"role": "user", "content": "sat"}], [{"name": "on"}]
    for given in (None, tools):
        expected = reference.apply_chat_template(messages, tools=given)["input_ids"]
        assert loaded.encode_chat(messages, tools=given) == expected
    expected = reference.apply_chat_template(messages, chat_template="rag")["input_ids"]
    assert loaded.encode_chat(messages, template="rag") == expected


@pytest.mark.parametrize("text", [3, None, b"the cat", ["the"]])
def test_refuses_what_is_no_text(text: object) -> None:
    with pytest.raises(ValueError, match="text must be a string, got"):
        byte_level().encode(text)


def test_refuses_half_of_a_surrogate_pair() -> None:
    with pytest.raises(ValueError, match=r"text has half of a surrogate pair, '\\udc80', at position 3"):
        byte_level().encode("the\udc80")
    with pytest.raises(ValueError, match=r"special_tokens\['eos_token'\] has half"):
        Tokenizer.from_backend(byte_level().backend, special_tokens={"eos_token": "\ud800"})
    with pytest.raises(ValueError, match=r"what chat template .* wrote has half"):
        byte_level().encode_chat([{"role": "user", "content": "x"}], template="{{ '\\ud800' }}")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, -1], "at position 1 must be a whole number >= 0"),
        ([1.5], "at position 0 must be a whole number, got 1.5"),
        ([2**31], "at position 0 must be a whole number >= 0 and <= 2147483647"),
        ([10**30], "at position 0 must be a whole number"),
        ([True], "at position 0 must be a whole number, got True"),
        ("12", "at position 0 must be a whole number, got '1'"),
        (None, "at position 0 must be a whole number, got None"),
        ([[1, 2]], r"at position 0 must be a whole number, got \[1, 2\]"),
        (np.ones((2, 2), np.int32), r"at position 0 must be a whole number, got \[1, 1\]"),
    ],
)
def test_refuses_what_are_no_ids(ids: object, message: str) -> None:
    for hidden in (byte_level().decode, lambda _, hidden: byte_level().stream(hidden=hidden)):
        with pytest.raises(ValueError, match=f"hidden: the one {message}"):
            hidden([1], hidden=ids)
    with pytest.raises(ValueError, match=message):
        byte_level().decode(ids)
    with pytest.raises(ValueError, match=message):
        byte_level().stream().push(ids)


def test_refuses_what_is_no_backend_and_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"backend must be a tokenizers\.Tokenizer, got None"):
        Tokenizer.from_backend(None)
    with pytest.raises(ValueError, match="special_tokens must map roles to texts, got 3"):
        Tokenizer.from_backend(byte_level().backend, special_tokens=3)
    for call in (Tokenizer.load, byte_level().save):
        with pytest.raises(ValueError, match=r"directory must be a path .*, got None"):
            call(None)


STRANGE = [
    None,
    True,
    -1,
    2**31,
    2**70,
    1.5,
    float("nan"),
    "",
    "a",
    "\ud800",
    [],
    {},
    [None],
    {"a": 1},
    "Replace",
]


def with_a_fault(document: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A copy in which one value, anywhere, is gone, misnamed or strange."""
    copied = json.loads(json.dumps(document))
    part, key = copied, draw.choice(list(copied))
    while isinstance(part[key], dict | list) and part[key] and draw.random() < 0.8:
        part = part[key]
        key = draw.choice(list(part)) if isinstance(part, dict) else draw.randrange(len(part))
    fault = draw.randrange(8)
    if fault == 0:
        del part[key]
    elif fault == 1 and isinstance(part, dict):
        part[f"{key}x"] = part.pop(key)
    else:
        part[key] = draw.choice(STRANGE)
    return copied


def check_files_with_faults(directory: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    tokenizer = json.loads(byte_level().files["tokenizer.json"])
    token = {"content": "<x>", "special": True, "lstrip": False}
    config = {
        **json.loads(byte_level().files["tokenizer_config.json"]),
        "added_tokens_decoder": {"310": token},
        "additional_special_tokens": ["<|user|>", token],
        "extra_special_tokens": {"image_token": "<image>"},
        "clean_up_tokenization_spaces": True,
        "chat_template": [{"name": "default", "template": TEMPLATE}],
    }
    refused = 0
    for _ in range(count):
        changed = draw.random() < 0.6
        file = with_a_fault(tokenizer, draw) if changed else tokenizer
        (directory / "tokenizer.json").write_text(json.dumps(file))
        (directory / "tokenizer_config.json").write_text(
            json.dumps(config if changed else with_a_fault(config, draw))
        )
        try:
            loaded = Tokenizer.load(directory)
            assert loaded is not None
            ids = loaded.encode("the cat 日本 <s> x")
            stream = loaded.stream()
            assert stream.push(ids) + stream.finish() == loaded.decode(ids)
            assert len(loaded.token_bytes()) >= loaded.vocab_size
        except CheckpointError:
            refused += 1
    assert 0 < refused < count


def test_a_fault_in_a_file_is_named_or_does_no_harm(tmp_path: Path) -> None:
    check_files_with_faults(tmp_path, 150, seed=0)


@pytest.mark.sweep
def test_faults_in_files_are_named_or_do_no_harm(tmp_path: Path) -> None:
    check_files_with_faults(tmp_path, 2000, seed=1)
