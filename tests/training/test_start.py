"""Runs that begin with the weights of a model."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxmodels as jm
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.export import export_run
from jaxmodels.training.loop import train
from jaxmodels.training.optimizer import Muon, WarmupStableDecay
from jaxmodels.training.recipe import Recipe
from jaxmodels.training.start import load_start

MODEL = {
    "model_type": "qwen3",
    "vocab_size": 280,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
QUIET = Console(file=io.StringIO())


@pytest.fixture
def recipe(tmp_path):
    for name in ("train.py", "held_out.py"):
        lines = [f"def {name[0]}{i}(x):\n    return x + {i}" for i in range(60)]
        (tmp_path / name).write_text("\n".join(lines))
    return Recipe(
        model=MODEL,
        train_files=(str(tmp_path / "train.py"),),
        held_out_files=(str(tmp_path / "held_out.py"),),
        schedule=WarmupStableDecay(peak=0.01, warmup_steps=1, decay_steps=0, total_steps=2),
        sequence_length=16,
        batch_size=2,
        checkpoint_every=1,
    )


@pytest.mark.sweep
def test_a_run_goes_on_from_the_weights_and_the_tokenizer_of_another(recipe, tmp_path):
    first, _ = train(recipe, tmp_path / "first", console=QUIET)
    export_run(tmp_path / "first", tmp_path / "model", "float32")
    # A learning rate of nearly nothing: what the run ends with is what it began with.
    still = dataclasses.replace(
        recipe,
        start_from=str(tmp_path / "model"),
        optimizer=Muon(),
        schedule=WarmupStableDecay(peak=1e-9, warmup_steps=0, decay_steps=0, total_steps=2),
        seed=1,
    )
    again, _ = train(still, tmp_path / "second", console=QUIET)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6), again.params, first.params
    )
    assert again.tokenizer.to_str() == first.tokenizer.to_str()
    resumed, _ = train(still, tmp_path / "second", console=QUIET)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, again.params)


def test_a_scanned_stack_takes_the_weights_of_all_layers(tmp_path):
    decoder = config_from_hf(MODEL)
    model = jm.init(decoder)
    jm.save(model, tmp_path / "model")
    scanned = ScannedDecoder(decoder)
    tokens = jnp.arange(6)[None]
    logits = scanned.forward(load_start(str(tmp_path / "model"), scanned), tokens)
    np.testing.assert_allclose(logits, model(tokens), atol=1e-5)


@pytest.mark.sweep
def test_another_model_is_refused_before_training(recipe, tmp_path):
    other = dataclasses.replace(recipe, start_from="tiny-qwen3")
    message = r"start_from='tiny-qwen3' is another model.*: vocab_size is 4096 there and 280 in the recipe"
    with pytest.raises(ValueError, match=message):
        train(other, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "recipe.json").exists()
    train(recipe, tmp_path / "run", console=QUIET)  # the directory is still free
