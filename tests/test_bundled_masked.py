"""The bundled model that fills in masks has learnt something."""

import gzip
from pathlib import Path

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.training.evaluate import score_files


@pytest.fixture(scope="module")
def model():
    return jm.load("tiny-llada")


def test_it_fills_masks_from_both_sides(model):
    assert model.config.mask == BIDIRECTIONAL and model.config.filling.mask_token == 4096
    (filled,) = model.fill_mask(["def __init__(<|mask|>, name):\n    self.name = name\n"])
    assert filled.text.startswith("def __init__(self, name)")
    assert filled.masks[0].candidates[0].probability > 0.9


@pytest.mark.sweep
def test_it_codes_python_in_fewer_bits_than_gzip(model, tmp_path):
    content = (Path(jm.__file__).parent / "checks.py").read_bytes()[:3000]
    (tmp_path / "sample.py").write_bytes(content)
    score = score_files(
        model.config, model.params, model.tokenizer.backend, [tmp_path / "sample.py"], window=256, overlap=128
    )
    upper = score.bits_per_byte + 3 * score.bits_per_byte_error
    assert upper < 8 * len(gzip.compress(content, 9)) / len(content)


@pytest.mark.sweep
def test_it_continues_text(model):
    out = model.generate("def add(a, b):\n    return", max_new_tokens=8)
    assert out.tokens.shape == (1, 8)
    assert not np.isin(out.tokens, range(4096, 4104)).any()
