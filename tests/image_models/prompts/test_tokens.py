"""Prompts of one length, against the tokenizers of transformers."""

import json
import sys

import numpy as np
import pytest
from prompt_encoders import clip_tokenizer, clip_vocabulary, t5_tokenizer

from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.image_models.prompts.tokens import longest, padded

PROMPTS = ["a Cat  on the mat", "", "Zürich, in the style of a naïve painter: 3 boats, it's dawn; a photo"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("made", [clip_tokenizer, t5_tokenizer])
def test_prompts_are_cut_and_padded_as_in_transformers(made, side, tmp_path):
    theirs = made(padding_side=side)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for length in (8, 40):
        wanted = theirs(PROMPTS, padding="max_length", max_length=length, truncation=True)
        found = padded(ours, PROMPTS, length)
        np.testing.assert_array_equal(found.ids, wanted["input_ids"])
        np.testing.assert_array_equal(found.seen, np.array(wanted["attention_mask"], bool))
    assert longest(ours, 3) == theirs.model_max_length


def test_vocabularies_of_clip_need_no_transformers(tmp_path, monkeypatch):
    vocabulary, merges = clip_vocabulary()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = clip_tokenizer(77, pad_token="!")
    monkeypatch.setitem(sys.modules, "transformers", None)
    ours = Tokenizer.load(tmp_path)
    wanted = theirs(PROMPTS, padding="max_length", max_length=40, truncation=True)
    np.testing.assert_array_equal(padded(ours, PROMPTS, 40).ids, wanted["input_ids"])


def test_what_is_cut_off_is_told(tmp_path):
    clip_tokenizer().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"has 5 tokens, of which .* reads the first 3: 'a Cat on"):
        padded(Tokenizer.load(tmp_path), ["a Cat on the mat", "a"], 5)


def test_lengths_without_room_are_refused(tmp_path):
    clip_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="length=1 has no room for the tokens around a prompt, 2"):
        padded(Tokenizer.load(tmp_path), ["a"], 1)
