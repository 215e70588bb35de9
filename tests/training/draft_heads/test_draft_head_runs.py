"""Draft heads are trained from a recipe, and what is written loads as a drafter."""

import dataclasses
import json

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Speculative
from jaxmodels.training.draft_heads.export import export_draft_head
from jaxmodels.training.draft_heads.recipe import DRAFT_HEAD_RECIPES
from jaxmodels.training.draft_heads.run import train_draft_head
from jaxmodels.training.fitting import Fit
from jaxmodels.training.optimizer import AdamW, WarmupCosine

TARGET = "tiny-llama-lists"


def short(name, folder, **head):
    """The recipe for a smaller target and few steps, on a text that says the same 16 numbers over and over.

    Batches of other texts would differ in how hard they are to foretell by more than a step gains.
    """
    recipe = DRAFT_HEAD_RECIPES.load(name)
    tokens = np.tile(np.random.default_rng(0).integers(0, jm.load(TARGET).config.vocab_size, 16), 36)
    for side in ("train", "held_out"):
        np.save(folder / f"{side}.npy", tokens.astype(np.int32))
    return dataclasses.replace(
        recipe,
        target=TARGET,
        head=dataclasses.replace(recipe.head, **head),
        train_files=(str(folder / "train.npy"),),
        held_out_files=(str(folder / "held_out.npy"),),
        fit=Fit(
            schedule=WarmupCosine(peak=0.001, warmup_steps=1, total_steps=3),
            optimizer=AdamW(),
            batch_size=4,
        ),
        sequence_length=16,
        log_every=1,
        checkpoint_every=3,
    )


@pytest.mark.parametrize("name", DRAFT_HEAD_RECIPES.names())
def test_recipes_are_written_as_they_are_read(name):
    recipe = DRAFT_HEAD_RECIPES.load(name)
    written = json.loads(json.dumps(DRAFT_HEAD_RECIPES.to_dict(recipe)))
    assert DRAFT_HEAD_RECIPES.from_dict(written) == recipe
    assert DRAFT_HEAD_RECIPES.recognises(name)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("tiny_qwen3_eagle3", {"layers": (0, 1), "draft_vocab_size": 40, "d_ff": 16}),
        ("tiny_qwen3_medusa", {"draft_vocab_size": 40}),
        ("tiny_qwen3_mtp", {"num_heads": 2, "head_dim": 8, "d_ff": 16}),
    ],
    ids=["eagle3", "medusa", "mtp"],
)
def test_a_run_ends_with_a_head_that_drafts(name, head, tmp_path):
    recipe = short(name, tmp_path, **head)
    run = train_draft_head(recipe, tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/head/metrics.jsonl").open()]
    assert losses[2] < losses[1] < losses[0]
    assert 0 <= json.loads((tmp_path / "run/result.json").read_text())["right_first_drafts"] <= 1
    export_draft_head(run, tmp_path / "head", "float32")
    model = jm.load(TARGET)
    prompt = [[3, 5, 7, 9]]
    plain = model.generate(prompt, 12, Autoregressive())
    ours = model.generate(prompt, 12, Speculative(draft=str(tmp_path / "head")))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert ours.stats.counters["drafted"] > 0


def test_a_head_that_knows_more_tokens_than_there_are_is_refused(tmp_path):
    recipe = short("tiny_qwen3_eagle3", tmp_path, layers=(0, 1), draft_vocab_size=10**6)
    with pytest.raises(ValueError, match="draft_vocab_size=1000000 exceeds the target's vocabulary"):
        train_draft_head(recipe, tmp_path / "run")


def test_a_head_that_reads_streams_that_are_not_there_is_refused(tmp_path):
    recipe = short("tiny_qwen3_eagle3", tmp_path, layers=(0, 99), draft_vocab_size=40)
    with pytest.raises(ValueError, match="it reads the stream 'blocks/98', and the target has embeddings"):
        train_draft_head(recipe, tmp_path / "run")
