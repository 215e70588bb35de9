"""A small checkpoint whose linear layers tests store quantised."""

import pytest
from quantized_checkpoints import VALUES, Bench
from safetensors.torch import load_file

import jaxmodels as jm
from jaxmodels.models.families import config_from_hf


@pytest.fixture(scope="session")
def plain_tensors(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    jm.save(jm.init(config_from_hf(VALUES), dtype="float16"), directory)
    return load_file(directory / "model.safetensors")


@pytest.fixture
def bench(plain_tensors, tmp_path):
    return Bench(plain_tensors, tmp_path)
