"""`jaxmodels fill-mask`."""

import dataclasses
import json

import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

import jaxmodels as jm
from jaxmodels.checkpoints import Tokenizer

CONFIG = {
    "model_type": "bert", "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "mask_token_id": 3,
    "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    backend = tokenizers.Tokenizer(WordLevel({f"w{i}": i for i in range(12)}, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens(["w3"])
    tokenizer = Tokenizer.from_backend(backend, special_tokens={"mask_token": "w3"})
    model = dataclasses.replace(jm.init(jm.config_from_hf(CONFIG)), tokenizer=tokenizer)
    jm.save(model, tmp_path_factory.mktemp("model") / "bert")
    return str(tmp_path_factory.getbasetemp() / "model0" / "bert")


def test_it_shows_the_best_tokens_and_the_text(run, directory):
    (filled,) = jm.load(directory).fill_mask("w5 w3 w7", top_k=2)
    candidates = [f"  {c.probability:7.2%}  {c.text}" for c in filled.masks[0].candidates]
    wanted = ["token 1:", *candidates, f"w5 {filled.masks[0].candidates[0].text} w7"]
    assert run("fill-mask", directory, "w5 w3 w7", "-k", "2").stdout.splitlines() == wanted


def test_json_holds_all_of_it(run, directory):
    (filled,) = jm.load(directory).fill_mask("w3 w3")
    printed = json.loads(run("fill-mask", directory, "w3 w3", "--json").stdout)
    assert printed["tokens"] == filled.tokens.tolist() and printed["text"] == filled.text
    assert [mask["position"] for mask in printed["masks"]] == [0, 1]
    assert [c["token"] for c in printed["masks"][1]["candidates"]] == [
        c.token for c in filled.masks[1].candidates
    ]


def test_a_text_without_a_mask_is_one_line(run, directory):
    result = run("fill-mask", directory, "w1", code=2)
    assert result.stderr.startswith("jaxmodels: error: row 0 has no mask to fill")
