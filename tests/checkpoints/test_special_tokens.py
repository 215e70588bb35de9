"""Tokens named beside `tokenizer.json` get the ids and flags that transformers gives them."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.special_tokens import read_named_tokens
from jaxmodels.checkpoints.tokenizer import Tokenizer

BASE = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>"}
END = {
    "content": "<|im_end|>",
    "special": True,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
}
START = END | {"content": "<|im_start|>", "rstrip": True}
PLAIN = END | {"content": "<think>", "special": False, "normalized": True}
MARKED = {"__type": "AddedToken"} | END
CONFIGS: dict[str, dict[str, Any]] = {
    "by id": {"eos_token": "<|im_end|>", "added_tokens_decoder": {"258": PLAIN, "257": START, "259": END}},
    "by id, in use": {
        "added_tokens_decoder": {"256": END | {"content": "<bos>"}, "34": PLAIN | {"content": "C"}}
    },
    "by id, with gaps": {"added_tokens_decoder": {"1000": START, "7": PLAIN}},
    "by role": {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "unk_token": None, "add_bos_token": True},
    "by role, as object": {"eos_token": MARKED, "sep_token": "a"},
    "by a role of one model": {"image_token": "<image>", "eos_token": "<|im_end|>"},
    "additional": {"additional_special_tokens": ["<|im_end|>", "<|im_start|>", "<bos>"]},
    "additional, as objects": {"additional_special_tokens": [MARKED, "<|x|>"]},
    "extra": {"extra_special_tokens": ["<|im_end|>", "<tool>"]},
    "extra by role": {"extra_special_tokens": {"image_token": "<image>", "boi_token": "<|im_end|>"}},
    "extra before additional": {
        "extra_special_tokens": ["<|x|>"],
        "additional_special_tokens": ["<|im_end|>"],
    },
    "named and by id": {
        "eos_token": "<|im_end|>",
        "additional_special_tokens": ["<think>", "<|im_start|>"],
        "added_tokens_decoder": {"257": PLAIN | {"content": "<|im_end|>"}, "258": PLAIN},
    },
    "split": {"split_special_tokens": True, "eos_token": "<|im_end|>"},
}
OLDER: dict[str, dict[str, Any]] = {
    "map": {
        "special_tokens_map.json": {
            "eos_token": "<|im_end|>",
            "bos_token": {"content": "<s>", "lstrip": True},
        }
    },
    "map and list": {"special_tokens_map.json": {"additional_special_tokens": ["<|im_end|>", "<tool>"]}},
    "added": {"added_tokens.json": {"<|im_end|>": 258, "<think>": 257}},
    "added and map": {
        "added_tokens.json": {"<|im_end|>": 257, "<think>": 258},
        "special_tokens_map.json": {"eos_token": "<|im_end|>"},
    },
}
TEXTS = ["a<|im_end|>", "<|im_start|>  a <think>b</think> C", "<bos><image><tool><|x|> <s> <|pad|>a"]


def write(directory: Path, config: dict[str, Any], plain: tuple[str, ...] = ()) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<bos>"])
    backend.add_tokens([AddedToken(token) for token in plain])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def check_against_transformers(directory: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer = Tokenizer.load(directory)
    assert tokenizer is not None
    expected = {number: repr(token) for number, token in reference.added_tokens_decoder.items()}
    added = tokenizer.backend.get_added_tokens_decoder()
    assert {number: repr(token) for number, token in added.items()} == expected
    assert dict(tokenizer.special_tokens) == reference.special_tokens_map
    assert tokenizer.eos_id == reference.eos_token_id
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == reference(text)["input_ids"]
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        stream = tokenizer.stream()
        assert stream.push(ids) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("plain", [(), ("<|im_end|>", "<tool>")], ids=["new", "known as plain"])
def test_tokens_of_the_configuration(name: str, plain: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, BASE | CONFIGS[name], plain)
    check_against_transformers(tmp_path)


@pytest.mark.parametrize("name", OLDER)
@pytest.mark.parametrize("config", [{}, {"added_tokens_decoder": {"257": START}}], ids=["older", "both"])
def test_tokens_of_older_files(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, BASE | config)
    for file, content in OLDER[name].items():
        (tmp_path / file).write_text(json.dumps(content))
    check_against_transformers(tmp_path)


@pytest.mark.parametrize("model_class", ["PreTrainedTokenizerFast", "GPT2Tokenizer"])
def test_switches_for_begin_and_end_do_not_count_beside_tokenizer_json(
    model_class: str, tmp_path: Path
) -> None:
    switches = {"add_bos_token": True, "add_eos_token": True}
    roles = dict.fromkeys(("eos_token", "unk_token"), "<bos>")
    write(tmp_path, BASE | roles | switches | {"tokenizer_class": model_class})
    check_against_transformers(tmp_path)


def test_a_token_with_a_role_is_special_whatever_else_the_files_say(tmp_path: Path) -> None:
    config = BASE | {"eos_token": "<|im_end|>", "added_tokens_decoder": {"256": END | {"content": "<bos>"}}}
    write(tmp_path, config, plain=("<|im_end|>",))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("hi<|im_end|>")) == "hi"


def test_tokens_are_saved(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 257}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer is not None
    copy = tmp_path / "copy"
    copy.mkdir()
    tokenizer.save(copy)
    again = Tokenizer.load(copy)
    assert again is not None
    assert again.encode("<|im_end|>") == [257]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": 3}, "tokenizer_config.json: eos_token is 3; it must be a string or an object"),
        ({"eos_token": {"content": 3}}, "eos_token is {'content': 3}; it must be a string"),
        ({"eos_token": {"content": "x", "lstrip": 1}}, "its flags must be true or false"),
        ({"eos_token": "\ud800"}, r"which is no text"),
        ({"additional_special_tokens": "x"}, "additional_special_tokens is 'x'; it must be a list"),
        ({"additional_special_tokens": ["x", 4]}, r"additional_special_tokens\[1\] is 4"),
        ({"extra_special_tokens": {"image_token": []}}, r"extra_special_tokens\['image_token'\] is \[\]"),
        ({"added_tokens_decoder": ["x"]}, r"added_tokens_decoder is \['x'\]; it must be an object"),
        ({"added_tokens_decoder": {"x": END}}, "added_tokens_decoder has the id 'x'"),
        ({"added_tokens_decoder": {"3": None}}, r"added_tokens_decoder\['3'\] is None"),
    ],
)
def test_refuses_tokens_that_are_none(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_named_tokens({"tokenizer_config.json": config}, Path("somewhere"))
    with pytest.raises(CheckpointError, match=r"somewhere/added_tokens.json: 'x' has the id 'y'"):
        read_named_tokens({"added_tokens.json": {"x": "y"}}, Path("somewhere"))
