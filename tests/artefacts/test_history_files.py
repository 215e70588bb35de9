"""Histories as directories."""

import json

import numpy as np
import pytest
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.histories import HISTORY_FILE, load_history, save_history

PROMPTS = [[5, 4, 3, 9, 8, 1, 2], [7, 7, 3]]


@pytest.fixture(scope="module")
def model():
    return jm.init(jm.config_from_hf(CONFIGS["bamba"]), seed=1, dtype="bfloat16")


@pytest.fixture
def directory(model, tmp_path):
    path = tmp_path / "history"
    save_history(model.prefill(PROMPTS), model, path)
    return path


@pytest.mark.sweep
def test_a_loaded_history_goes_on_as_the_one_saved(model, directory):
    history = load_history(directory, model)
    assert history.tokens == ((5, 4, 3, 9, 8, 1), (7, 7))
    found = model.generate(PROMPTS, 8, stop_tokens=(), history=history).tokens
    np.testing.assert_array_equal(found, model.generate(PROMPTS, 8, stop_tokens=()).tokens)


def test_a_history_of_another_model_is_refused_by_both(directory):
    other = jm.init(jm.config_from_hf(CONFIGS["llama"]))
    with pytest.raises(ArtefactError, match=r"history of a bamba of 2 blocks.*model here is a llama of 1"):
        load_history(directory, other)


def test_what_is_no_history_is_refused(model, directory, tmp_path):
    with pytest.raises(ArtefactError, match="holds no history"):
        load_history(tmp_path, model)
    values = json.loads((directory / HISTORY_FILE).read_text())
    (directory / HISTORY_FILE).write_text(json.dumps({**values, "capacity": values["capacity"] * 2}))
    with pytest.raises(
        ArtefactError, match=r"'layers/\d/\w+' must be bfloat16\[2, .*, and there is bfloat16"
    ):
        load_history(directory, model)
    (directory / HISTORY_FILE).write_text(json.dumps({**values, "format": 7}))
    with pytest.raises(ArtefactError, match="of another form than format 1"):
        load_history(directory, model)
