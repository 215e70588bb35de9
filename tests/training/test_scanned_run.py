"""A recipe with a scanned stack trains the same model, and exports it block by block."""

import dataclasses
import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxmodels as jm
from jaxmodels.training.export import export_run
from jaxmodels.training.loop import train
from jaxmodels.training.optimizer import WarmupCosine
from jaxmodels.training.recipe import Recipe

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


@pytest.mark.sweep
def test_scanned_and_unrolled_runs_export_alike(tmp_path):
    for name in ("train.py", "held_out.py"):
        (tmp_path / name).write_text(
            "\n".join(f"def {name[0]}{i}(x):\n    return x + {i}" for i in range(60))
        )
    recipe = Recipe(
        model=MODEL,
        train_files=(str(tmp_path / "train.py"),),
        held_out_files=(str(tmp_path / "held_out.py"),),
        schedule=WarmupCosine(peak=0.01, warmup_steps=1, total_steps=2),
        sequence_length=16,
        batch_size=2,
        stack="scanned",
    )
    quiet = Console(file=io.StringIO())
    _, score = train(recipe, tmp_path / "scanned", console=quiet)
    model = export_run(tmp_path / "scanned", tmp_path / "model", dtype="float32")

    loaded = jm.load(tmp_path / "model")
    tokens = jnp.asarray([[1, 2, 3]])
    np.testing.assert_array_equal(loaded(tokens), model(tokens))
    assert len(loaded.config.blocks) == 2
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("def f(x):")) == "def f(x):"
    assert 0 < score.bits_per_byte < 8

    # The same weights score the same when the layers are unrolled: the stack is not part of the model.
    plain = dataclasses.replace(recipe, stack="unrolled")
    _, plain_score = train(plain, tmp_path / "unrolled", console=quiet)
    assert abs(plain_score.bits_per_byte - score.bits_per_byte) < 0.5
