import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.training.tokenizer import (
    END_OF_TEXT,
    END_OF_TEXT_ID,
    bytes_per_token,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

SOURCE = '''
class Reader:
    """Reads numbers."""

    def __init__(self, path):
        self.path = path

    def read(self):
        with open(self.path) as file:
            return [int(line) for line in file if line.strip()]


def main():
    reader = Reader("numbers.txt")
    print(sum(reader.read()))
'''


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([SOURCE], 330)


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=60) | st.text(alphabet=" \t\r\n.:(_a1é", max_size=60))
def test_every_text_comes_back(tokenizer, text):
    (ids,) = encode_documents(tokenizer, [text])
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert END_OF_TEXT_ID not in ids


def test_indentation_is_one_token(tokenizer):
    tokens = tokenizer.encode("def read(self):\n        self.path").tokens
    assert "ĊĠĠĠĠĠĠĠĠ" in tokens
    assert "self." in tokens
    # the line break is apart from the colon, so a prompt may end in either
    assert tokenizer.encode("def read(self):").tokens == tokens[: tokens.index("ĊĠĠĠĠĠĠĠĠ")]


def test_end_of_text(tokenizer):
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    assert tokenizer.encode(END_OF_TEXT).ids == [END_OF_TEXT_ID]
    (ids,) = encode_documents(tokenizer, [END_OF_TEXT])
    assert END_OF_TEXT_ID not in ids
    assert tokenizer.encode_special_tokens is False


def test_transformers_reads_what_is_saved(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert reference(SOURCE).input_ids == tokenizer.encode(SOURCE).ids
    assert reference.decode(reference(SOURCE).input_ids) == SOURCE
    assert reference.eos_token_id == reference.bos_token_id == END_OF_TEXT_ID
    assert len(reference) == 330
    assert load_tokenizer(tmp_path).encode(SOURCE).ids == tokenizer.encode(SOURCE).ids


def test_bytes_per_token(tokenizer):
    ids = tokenizer.encode("self.é").ids
    assert bytes_per_token(tokenizer, ["self.é"]) == 7 / len(ids)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size must be at least 257.*got 256"):
        train_tokenizer(["x"], 256)
    with pytest.raises(ValueError, match="only 258 of 300 entries"):
        train_tokenizer(["ab"], 300)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        bytes_per_token(train_tokenizer(["a"], 257), [""])
