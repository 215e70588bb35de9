"""Acceptance heads load from what their authors' class writes, and go back to it."""

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from model_helpers import random_params
from safetensors.torch import load_file, save_file

import jaxmodels as jm
from jaxmodels.decoding.lengths import Confident, PredictedAcceptance
from jaxmodels.models.draft_heads.acceptance import AcceptanceHead

WIDTH = 8


class Residual(torch.nn.Module):
    """The authors' layer."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, x):
        return x + torch.nn.functional.silu(self.linear(x))


class TheirHead(torch.nn.Module, PyTorchModelHubMixin):
    """The authors' class: one layer several times, by way of a list."""

    def __init__(self, config):
        super().__init__()
        width, layers = config["hidden_size"], config.get("num_layers", 0)
        self.model = torch.nn.Sequential(*([Residual(width)] * layers), torch.nn.Linear(width, 2))

    def forward(self, x):
        return self.model(x)


HIDDEN = np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype(np.float32)


def assert_same_logits(head, theirs):
    with torch.no_grad():
        expected = theirs(torch.tensor(HIDDEN)).numpy()
    np.testing.assert_allclose(head.head(head.params, HIDDEN), expected, atol=1e-5)


def written(directory, layers=3):
    """A directory that their class wrote, and what it holds."""
    torch.manual_seed(0)
    config = {"hidden_size": WIDTH, "num_layers": layers}
    theirs = TheirHead(config)
    theirs.save_pretrained(directory, config=config)
    return theirs


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_head_comes_from_their_files_and_goes_back(layers, tmp_path):
    theirs = written(tmp_path / "theirs", layers)
    length = jm.load_draft_length(tmp_path / "theirs")
    assert length.head == AcceptanceHead(d_model=WIDTH, layers=layers)
    assert_same_logits(length, theirs)
    jm.save_draft_length(length, tmp_path / "ours")
    assert_same_logits(length, TheirHead.from_pretrained(str(tmp_path / "ours")))


def test_files_may_name_the_layer_each_time(tmp_path):
    """Pickles of older versions of their library do."""
    theirs = written(tmp_path / "head")
    (tmp_path / "head/model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "head/pytorch_model.bin")
    assert_same_logits(jm.load_draft_length(tmp_path / "head", allow_pickle=True), theirs)


def test_layers_that_differ_are_refused(tmp_path):
    theirs = written(tmp_path / "head")
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    tensors["model.2.linear.bias"] += 1
    save_file(tensors, tmp_path / "head/model.safetensors")
    with pytest.raises(jm.CheckpointError, match=r"'model.0.linear.bias' and 'model.2.linear.bias' differ"):
        jm.load_draft_length(tmp_path / "head")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{}", "'hidden_size' is missing"),
        ('{"hidden_size": 8, "num_layers": -1}', "num_layers.* -1"),
        ('{"hidden_size": 8, "num_layers": 2}', "'?model.2.weight'?"),
        ('{"hidden_size": 9, "num_layers": 3}', r"model.0.linear.weight.*\[8, 8\]"),
    ],
    ids=["missing", "negative", "fewer_layers", "another_width"],
)
def test_configurations_that_do_not_fit_are_refused(values, message, tmp_path):
    written(tmp_path / "head")
    (tmp_path / "head/config.json").write_text(values)
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load_draft_length(tmp_path / "head")


def test_a_tensor_that_is_missing_is_named(tmp_path):
    written(tmp_path / "head")
    tensors = load_file(tmp_path / "head/model.safetensors")
    del tensors["model.3.bias"]
    save_file(tensors, tmp_path / "head/model.safetensors")
    with pytest.raises(jm.CheckpointError, match=r"model\.3\.bias"):
        jm.load_draft_length(tmp_path / "head")


def test_lengths_without_a_head_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="length must be a PredictedAcceptance"):
        jm.save_draft_length(Confident(), tmp_path / "head")


def test_a_dtype_can_be_asked_for(tmp_path):
    head = AcceptanceHead(d_model=WIDTH, layers=1)
    jm.save_draft_length(PredictedAcceptance(head=head, params=random_params(head.spec())), tmp_path / "head")
    length = jm.load_draft_length(tmp_path / "head", dtype="bfloat16")
    assert length.params["layer"]["weight"].dtype == "bfloat16"
