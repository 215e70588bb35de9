"""Medusa's heads load from the authors' files and from vLLM's, and go back to both."""

import json

import jax
import numpy as np
import pytest
import torch
from draft_heads import medusa, medusa_drafter
from model_helpers import D_MODEL, VOCAB, random_params
from safetensors.torch import load_file, save_file
from strategy_helpers import architecture

import jaxmodels as jm
from jaxmodels.decoding import MedusaDrafter, Speculative

HEADS, DEPTH = 2, 2


class Residual(torch.nn.Module):
    """The authors' layer."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, x):
        return x + torch.nn.functional.silu(self.linear(x))


def theirs():
    """Their heads, as a list of sequences."""
    torch.manual_seed(0)
    return torch.nn.ModuleList(
        torch.nn.Sequential(
            *(Residual(D_MODEL) for _ in range(DEPTH)), torch.nn.Linear(D_MODEL, VOCAB, bias=False)
        )
        for _ in range(HEADS)
    )


def written(directory, tensors, name="medusa_lm_head.safetensors"):
    directory.mkdir()
    values = {"medusa_num_heads": 5, "medusa_num_layers": DEPTH, "base_model_name_or_path": "some/model"}
    (directory / "config.json").write_text(json.dumps(values))
    if name.endswith(".pt"):
        torch.save(tensors, directory / name)
    else:
        save_file(tensors, directory / name)
    return directory


@pytest.mark.parametrize("name", ["medusa_lm_head.safetensors", "medusa_lm_head.pt"])
def test_the_scores_are_those_of_the_authors_modules(name, tmp_path):
    modules = theirs()
    directory = written(tmp_path / "heads", modules.state_dict(), name)
    drafter = jm.load_drafter(directory, architecture("ssd")[0], allow_pickle=True)
    hidden = np.random.default_rng(0).standard_normal((2, 3, D_MODEL)).astype(np.float32)
    ours = drafter.head(drafter.params, hidden)
    with torch.no_grad():
        expected = np.stack([head(torch.from_numpy(hidden)).numpy() for head in modules], axis=-2)
    assert drafter.size == HEADS  # their configurations name more heads than the files hold
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_pickles_are_not_read_unasked(tmp_path):
    directory = written(tmp_path / "heads", theirs().state_dict(), "medusa_lm_head.pt")
    with pytest.raises(jm.CheckpointError, match=r"medusa_lm_head\.pt is a pickle, which can run code"):
        jm.load_drafter(directory)


def test_files_go_back_bit_for_bit(tmp_path):
    directory = written(tmp_path / "heads", theirs().state_dict())
    jm.save_drafter(jm.load_drafter(directory), tmp_path / "again")
    before, after = (
        load_file(folder / "medusa_lm_head.safetensors") for folder in (directory, tmp_path / "again")
    )
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name])


@pytest.mark.parametrize(
    "fields",
    [{"shared_output": True, "known": 11}, {"bias": False}, {"depth": 2, "known": 7}],
    ids=["shared", "no bias", "known"],
)
def test_the_form_of_vllm_loads_as_it_was_saved(fields, tmp_path):
    drafter = medusa_drafter(layout="medusa_vllm", **fields)
    jm.save_drafter(drafter, tmp_path / "heads")
    again = jm.load_drafter(tmp_path / "heads")
    assert again.head == drafter.head
    jax.tree.map(np.testing.assert_array_equal, again.params, drafter.params)
    jax.tree.map(np.testing.assert_array_equal, again.token_ids, drafter.token_ids)


def test_what_the_authors_form_cannot_hold_is_not_written(tmp_path):
    drafter = medusa_drafter(shared_output=True, known=11)
    with pytest.raises(jm.CheckpointError, match=r"'shared_output', 'token_ids'.* would be lost"):
        jm.save_drafter(drafter, tmp_path / "heads", layout="medusa")


def test_heads_for_another_vocabulary_are_refused(tmp_path):
    drafter = medusa_drafter(layout="medusa", target_vocab_size=30, vocab_size=30)
    jm.save_drafter(drafter, tmp_path / "heads")
    with pytest.raises(jm.CheckpointError, match="a vocabulary of 30 tokens, and the target's has 29"):
        jm.load_drafter(tmp_path / "heads", architecture("ssd")[0])


def test_more_tokens_than_there_are_heads_are_refused_by_what_the_caller_said(tmp_path):
    model = jm.load("tiny-qwen3")
    head = medusa(target_vocab_size=model.config.vocab_size, vocab_size=model.config.vocab_size, d_model=256)
    drafter = MedusaDrafter(head=head, params=random_params(head.spec()))
    jm.save_drafter(drafter, tmp_path / "heads", layout="medusa")
    strategy = Speculative(draft=str(tmp_path / "heads"), gamma=9)
    message = f"gamma=9, the size of the drafter .*heads': size must be .* <= {head.heads}, got 9"
    with pytest.raises(ValueError, match=message):
        model.generate("import os", 6, strategy)
