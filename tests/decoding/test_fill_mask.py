"""`Model.fill_mask` against the pipeline of transformers, and for models that it does not know."""

import dataclasses

import numpy as np
import pytest
import torch
from model_helpers import ARCHITECTURES, random_params
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, pipeline

import jaxmodels as jm
from jaxmodels.decoding.fill_mask import _best
from jaxmodels.models.filling import MaskFilling

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["paris", "is", "the", "capital", "of", "france", "##s", ",", "."]
TEXTS = ["Paris is the [MASK] of France.", "[MASK], the capital of [MASK], is Paris.", "the [MASK]"]
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The directory of a BERT whose vocabulary has the mask elsewhere than the published ones."""
    directory = tmp_path_factory.mktemp("bert")
    words = [*SPECIAL, *WORDS, *(f"w{i}" for i in range(120 - len(SPECIAL) - len(WORDS)))]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab_file=str(directory / "vocab.txt")).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=120, max_position_embeddings=20, initializer_range=0.5, **SIZES)
    BertForMaskedLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(bert):
    return jm.load(bert)


def test_it_is_the_pipeline_of_transformers(bert, model):
    theirs = pipeline("fill-mask", model=str(bert), top_k=4)
    found = model.fill_mask(TEXTS, top_k=4)
    for text, ours in zip(TEXTS, found, strict=True):
        wanted = theirs(text)
        wanted = [wanted] if text.count("[MASK]") == 1 else wanted
        assert len(ours.masks) == len(wanted)
        for mask, candidates in zip(ours.masks, wanted, strict=True):
            assert [c.token for c in mask.candidates] == [c["token"] for c in candidates]
            assert [c.text for c in mask.candidates] == [c["token_str"] for c in candidates]
            np.testing.assert_allclose(
                [c.probability for c in mask.candidates], [c["score"] for c in candidates], rtol=1e-4
            )
    assert found[0].text == theirs(TEXTS[0])[0]["sequence"]


def test_the_best_tokens_stand_in_the_masks_places(model):
    rows = [[2, 4, 7, 4, 3], [4, 9]]
    found = model.fill_mask(rows, top_k=1)
    for row, filled in zip(rows, found, strict=True):
        assert [mask.position for mask in filled.masks] == [i for i, token in enumerate(row) if token == 4]
        best = {mask.position: mask.candidates[0].token for mask in filled.masks}
        assert filled.tokens.tolist() == [best.get(i, token) for i, token in enumerate(row)]


def test_a_row_does_not_depend_on_those_beside_it(model):
    alone, batch = model.fill_mask(TEXTS[2]), model.fill_mask(TEXTS)
    for one, other in zip(alone[0].masks[0].candidates, batch[2].masks[0].candidates, strict=True):
        assert one.token == other.token
        np.testing.assert_allclose(one.probability, other.probability, rtol=1e-5)


def test_texts_of_a_bucket_share_a_program(model):
    model.fill_mask(TEXTS[0], top_k=2)
    before = _best.count()
    model.fill_mask(TEXTS[1], top_k=2)
    model.fill_mask([[4, 4, 4, 4]], top_k=2)
    assert _best.count() == before


@pytest.mark.parametrize("offset", [0, 1])
def test_a_model_that_speaks_of_the_next_token_is_asked_one_place_before(offset):
    filling = MaskFilling(mask_token=5, offset=offset)
    config = dataclasses.replace(ARCHITECTURES["attention"], filling=filling)
    model = jm.Model(config=config, params=random_params(config.spec()))
    row = [5, 7, 5, 5]
    (found,) = model.fill_mask([row], top_k=3)
    probabilities = np.asarray(torch.softmax(torch.tensor(np.asarray(model([row])[0])), -1))
    for mask in found.masks:
        wanted = probabilities[max(mask.position - offset, 0)]
        assert [c.token for c in mask.candidates] == np.argsort(-wanted)[:3].tolist()
        np.testing.assert_allclose(
            [c.probability for c in mask.candidates], np.sort(wanted)[:-4:-1], rtol=1e-4
        )
    assert found.text is None and found.masks[0].candidates[0].text is None


def test_the_tokenizer_says_which_token_is_the_mask(bert, model, tmp_path):
    """Where the configuration does not, as BERT's; what is saved says it."""
    assert model.config.filling == MaskFilling(mask_token=4)
    jm.save(model, tmp_path / "hf")
    jm.save(model, tmp_path / "orbax", format="orbax")
    for name in ("hf", "orbax"):
        assert jm.load(tmp_path / name).config == model.config
    (bert / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    try:
        (tmp_path / "plain").mkdir()
        for name in ("config.json", "model.safetensors"):
            (tmp_path / "plain" / name).write_bytes((bert / name).read_bytes())
        assert jm.load(tmp_path / "plain").config.filling == MaskFilling(mask_token=103)
    finally:
        (tmp_path / "tokenizer.json").rename(bert / "tokenizer.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Paris is the capital.",), r"row 0 has no .* its 7 tokens is the mask token 4, written '\[MASK\]'"),
        ((["the [MASK]", "the"],), "row 1 has no mask to fill"),
        (
            (" ".join(["[MASK]"] * 30),),
            "a text of 32 tokens needs as many positions, the model has learned 20",
        ),
        (("the [MASK]", 0), "top_k must be a whole number >= 1 and <= 120, got 0"),
        (("the [MASK]", 121), "top_k must be a whole number >= 1 and <= 120, got 121"),
        (([],), "prompts: got an empty batch"),
        (([[4, 120]],), "token id 120 at position 1"),
    ],
)
def test_what_cannot_be_filled_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.fill_mask(*arguments)


@pytest.mark.parametrize(
    ("filling", "message"),
    [
        (None, "the model was not trained to fill masks"),
        (MaskFilling(mask_token=None), "the model has no mask token: it is shown random tokens"),
    ],
)
def test_a_model_that_fills_no_masks_is_refused(filling, message):
    config = dataclasses.replace(ARCHITECTURES["attention"], filling=filling)
    model = jm.Model(config=config, params=random_params(config.spec()))
    with pytest.raises(ValueError, match=message):
        model.fill_mask([[1, 2]])
