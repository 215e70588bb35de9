"""Tokenizers in GGUF files, against transformers' reading of the same file."""

import inspect
import io
import json

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer

import jaxmodels as jm
from jaxmodels.checkpoints.gguf import generation_defaults, load_tokenizer, open_gguf

CORPUS = [inspect.getsource(json), inspect.getsource(json.decoder), inspect.getsource(inspect)] + [
    "é 中文 😀"
] * 9
TEXTS = [
    "def main():\n    return 'a  b'\n",
    "  leading and trailing  ",
    "",
    "It's 2024, don't  you know? 12345",
    "naïve façade 中文 😀\t\ttabs\r\n\n\nlines",
    "x = [1, 2]  # <|end|> not control <s> here",
    "a<|im_end|>b",
]
CONTROL, USER, NORMAL, BYTE, UNKNOWN = 3, 4, 1, 6, 2


def write(path, architecture, keys, tokens, kinds, scores=None, merges=None):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if scores is not None:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    for key, value in keys.items():
        add = writer.add_string if isinstance(value, str) else writer.add_bool
        add = writer.add_uint32 if isinstance(value, int) and not isinstance(value, bool) else add
        add(f"tokenizer.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def byte_level():
    """Tokens and merges of a trained byte-level vocabulary."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, tokenizers.trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(pair) for pair in model["merges"]]


@pytest.fixture(scope="module")
def pieces():
    """The processor, pieces, scores and kinds of a trained SentencePiece vocabulary with bytes."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(CORPUS).splitlines()),
        model_writer=trained,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        user_defined_symbols=["<|im_end|>"],
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    ids = range(model.get_piece_size())
    kinds = [
        UNKNOWN if model.is_unknown(i) else CONTROL if model.is_control(i) else BYTE if model.is_byte(i)
        else USER if model.id_to_piece(i) == "<|im_end|>" else NORMAL
        for i in ids
    ]  # fmt: skip
    return model, [model.id_to_piece(i) for i in ids], [model.get_score(i) for i in ids], kinds


def assert_same(path, texts=TEXTS):
    ours = load_tokenizer(open_gguf(path))
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    return ours


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken", "default"])
def test_byte_level(pre, byte_level, tmp_path):
    tokens, merges = byte_level
    added = ["<|begin|>", "<|end|>", "<|im_end|>"]
    kinds = [NORMAL] * len(tokens) + [CONTROL, CONTROL, USER]
    first = len(tokens)
    keys = {"ggml.model": "gpt2", "ggml.pre": pre, "ggml.bos_token_id": first, "ggml.eos_token_id": first + 1}
    write(tmp_path / "model.gguf", "llama", keys, tokens + added, kinds, merges=merges)
    ours = assert_same(tmp_path / "model.gguf")
    assert (ours.bos_id, ours.eos_id) == (first, first + 1)


SENTENCEPIECE = {
    "ggml.model": "llama",
    "ggml.bos_token_id": 1,
    "ggml.eos_token_id": 2,
    "ggml.unknown_token_id": 0,
    "ggml.add_bos_token": True,
}


def test_sentencepiece(pieces, tmp_path):
    """Neither library puts a space in front of text behind a control token, as llama.cpp does, nor does
    transformers in front of text that begins with one."""
    model, tokens, scores, kinds = pieces
    write(tmp_path / "model.gguf", "llama", SENTENCEPIECE, tokens, kinds, scores=scores)
    texts = [text for text in TEXTS if "<" not in text]
    ours = assert_same(tmp_path / "model.gguf", [text for text in texts if not text.startswith(" ")])
    for text in texts:
        assert ours.encode(text) == [1, *model.encode(text)], text
    assert ours.encode("a<|im_end|>b") == [*ours.encode("a"), 3, *ours.encode("b")[1:]]


def test_pieces_of_gemma(pieces, tmp_path):
    _, tokens, scores, kinds = pieces
    write(tmp_path / "model.gguf", "gemma2", SENTENCEPIECE, tokens, kinds, scores=scores)
    assert_same(tmp_path / "model.gguf")


def test_template_and_end_tokens(byte_level, tmp_path):
    tokens, merges = byte_level
    first = len(tokens)
    keys = {
        "ggml.model": "gpt2",
        "ggml.eos_token_id": first,
        "ggml.eot_token_id": first + 1,
        "chat_template": "{{ messages[0].content }}<|end|>",
    }
    kinds = [NORMAL] * first + [CONTROL, CONTROL]
    write(tmp_path / "model.gguf", "llama", keys, [*tokens, "<|end|>", "<|eot|>"], kinds, merges=merges)
    file = open_gguf(tmp_path / "model.gguf")
    tokenizer = load_tokenizer(file)
    ids = tokenizer.encode_chat([{"role": "user", "content": "def f"}])
    assert tokenizer.decode(ids) == "def f" and ids[-1] == first
    assert generation_defaults(file).eos_token_ids == (first, first + 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ggml.model": "bert"}, r"model.gguf: the tokenizer 'bert' .* is not read; give token ids"),
        ({"ggml.model": "gpt2", "ggml.pre": "martian"}, r"pre-tokenizer 'martian' is not read"),
    ],
)
def test_kinds_that_are_not_read_leave_the_model_without_one(keys, message, byte_level, tmp_path):
    tokens, merges = byte_level
    write(tmp_path / "model.gguf", "llama", keys, tokens, [NORMAL] * len(tokens), merges=merges)
    with pytest.warns(UserWarning, match=message):
        assert load_tokenizer(open_gguf(tmp_path / "model.gguf")) is None


def test_merges_of_other_tokens_are_named(byte_level, tmp_path):
    tokens, _ = byte_level
    write(
        tmp_path / "model.gguf",
        "llama",
        {"ggml.model": "gpt2"},
        tokens,
        [NORMAL] * len(tokens),
        merges=["zq qz"],
    )
    with pytest.raises(jm.CheckpointError, match=r"model.gguf: the tokenizer's parts do not fit each other"):
        load_tokenizer(open_gguf(tmp_path / "model.gguf"))
