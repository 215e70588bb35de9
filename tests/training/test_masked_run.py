"""Runs of models that fill in masks, from data to checkpoint."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxmodels as jm
from jaxmodels.layers.spec import walk
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.export import export_run
from jaxmodels.training.loop import train
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe import Recipe
from jaxmodels.training.start import load_adapted
from jaxmodels.training.tokenizer import MASK, train_tokenizer, with_mask

LLADA = {
    "model_type": "llada",
    "vocab_size": 288,
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "mlp_hidden_size": 24,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "weight_tying": True,
    "mask_token_id": 280,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 280,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
QUIET = Console(file=io.StringIO())


@pytest.fixture
def recipe(tmp_path):
    for name in ("train.py", "held_out.py"):
        lines = [f"def {name[0]}{i}(x):\n    return x + {i}" for i in range(60)]
        (tmp_path / name).write_text("\n".join(lines))
    return Recipe(
        model=LLADA,
        train_files=(str(tmp_path / "train.py"),),
        held_out_files=(str(tmp_path / "held_out.py"),),
        objective=MaskedDiffusion(masking="counted", complementary=True),
        schedule=WarmupCosine(peak=0.01, warmup_steps=2, total_steps=12),
        optimizer=AdamW(),
        sequence_length=16,
        batch_size=8,
        accumulate=2,
        evaluate_every=6,
        checkpoint_every=6,
        log_every=6,
        evaluation_windows=8,
    )


@pytest.mark.sweep
def test_a_masked_recipe_is_trained_scored_and_exported(recipe, tmp_path):
    run, score = train(recipe, tmp_path / "run", console=QUIET)
    assert run.tokenizer.token_to_id(MASK) == 280
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["held_out_bits_per_byte"] == score.bits_per_byte
    assert 0 < result["standard_error_of_bits_per_byte"] < 0.1 * score.bits_per_byte
    held_out = [record["held_out_loss"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(held_out) == 2 and held_out[1] < held_out[0] < np.log(288) + 0.5
    model = export_run(tmp_path / "run", tmp_path / "model", "float32")
    assert model.config == run.model
    loaded = jm.load(tmp_path / "model")
    assert loaded.config == run.model and loaded.tokenizer.backend.token_to_id(MASK) == 280
    jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)


@pytest.mark.sweep
def test_an_interrupted_run_draws_the_same_masks(recipe, tmp_path):
    whole, _ = train(recipe, tmp_path / "whole", console=QUIET)
    train(recipe, tmp_path / "halves", console=QUIET)
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "12")
    again, _ = train(recipe, tmp_path / "halves", console=QUIET)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


@pytest.mark.sweep
def test_a_run_adapts_an_autoregressive_model(recipe, tmp_path):
    first = dataclasses.replace(recipe, model=LLAMA, objective=NextToken())
    train(first, tmp_path / "first", console=QUIET)
    theirs = export_run(tmp_path / "first", tmp_path / "model", "float32")
    still = dataclasses.replace(
        recipe,
        adapt_from=str(tmp_path / "model"),
        schedule=WarmupCosine(peak=1e-9, warmup_steps=0, total_steps=1),
    )
    run, _ = train(still, tmp_path / "second", console=QUIET)
    ours, theirs = dict(walk(run.params)), dict(walk(theirs.params))
    assert set(ours) == set(theirs)
    mean = np.broadcast_to(theirs["embed/weight"].mean(0), (8, 16))
    theirs["embed/weight"] = np.concatenate([theirs["embed/weight"], mean])
    for path, array in ours.items():
        np.testing.assert_allclose(array, theirs[path], atol=1e-6)
    assert run.tokenizer.decode([5, 9]) == jm.load(tmp_path / "model").tokenizer.backend.decode([5, 9])


def test_what_does_not_fit_is_drawn():
    decoder = config_from_hf({**LLADA, "d_model": 256, "mlp_hidden_size": 352, "n_heads": 4, "n_kv_heads": 1})
    adapted = dict(walk(load_adapted("tiny-qwen3", decoder, seed=0)))
    theirs = dict(walk(jm.load("tiny-qwen3", "float32").params))
    np.testing.assert_array_equal(adapted["blocks/0/ffn/w_up"], theirs["blocks/0/ffn/w_up"])
    assert adapted["embed/weight"].shape == (288, 256)  # of a smaller vocabulary there is nothing to take
    assert not np.isin(adapted["embed/weight"], theirs["embed/weight"]).all()
    scanned = ScannedDecoder(decoder)
    stacked = load_adapted("tiny-qwen3", scanned, seed=0)["blocks"]["0"]["ffn"]["w_up"]
    np.testing.assert_array_equal(stacked[1], theirs["blocks/1/ffn/w_up"])
    small = config_from_hf(LLADA)
    with pytest.raises(ValueError, match="adapt_from='tiny-qwen3' has no parameter of the paths and shapes"):
        load_adapted("tiny-qwen3", small, seed=0)


def test_the_mask_is_the_token_that_the_model_says():
    tokenizer = train_tokenizer(["def add(a, b):\n    return a + b\n" * 3], 270)
    masked = with_mask(tokenizer, 270)
    assert masked.token_to_id(MASK) == 270 and tokenizer.token_to_id(MASK) is None
    assert with_mask(masked, 270).to_str() == masked.to_str()
    with pytest.raises(ValueError, match=r"mask token is 271, but '<\|mask\|>' is token 270"):
        with_mask(tokenizer, 271)


def test_causal_models_are_refused_before_training(recipe, tmp_path):
    causal = dataclasses.replace(recipe, model=LLAMA)
    with pytest.raises(ValueError, match="masked_diffusion trains models that fill in a mask token"):
        train(causal, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "recipe.json").exists()
