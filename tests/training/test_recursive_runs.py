"""A model with recursions and its router, trained from scratch, written, and read again."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxmodels as jm
from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.layers.spec import init_params
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.export import DEPTH_FOLDER, export_run
from jaxmodels.training.loop import load_run, train
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.objectives.recursions import Recursions
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe import Recipe
from jaxmodels.training.recursive_decoder import best

OBJECTIVE = Recursions(shared=1, recursions=3, alpha=0.5, warmup_steps=4, auxiliary=0.1)
HF = {
    "model_type": "llama",
    "vocab_size": 280,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 280, (2, 9)), jnp.int32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run of a few steps."""
    folder = tmp_path_factory.mktemp("recursions")
    for name in ("train.py", "held_out.py"):
        lines = [f"def {name[0]}{i}(x, y):\n    return x + {i} * y\n" for i in range(30)]
        (folder / name).write_text("\n\n".join(lines))
    recipe = Recipe(
        model=HF,
        train_files=(str(folder / "train.py"),),
        held_out_files=(str(folder / "held_out.py"),),
        schedule=WarmupCosine(peak=0.01, warmup_steps=2, total_steps=12),
        optimizer=AdamW(),
        objective=OBJECTIVE,
        sequence_length=16,
        batch_size=8,
        evaluate_every=12,
        checkpoint_every=12,
        log_every=2,
        evaluation_windows=8,
    )
    train(recipe, folder / "run", console=Console(file=io.StringIO()))
    return folder / "run"


@pytest.mark.sweep
def test_training_lowers_the_loss_and_what_is_written_decodes_as_it_was_trained(run):
    losses = [record["loss"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]
    assert losses[-1] < losses[0] - 0.3
    trained = load_run(run)
    export_run(run, run / "model", "float32")
    model = jm.load(run / "model", "float32")
    policy = jm.load_depth(run / "model" / DEPTH_FOLDER, model)
    np.testing.assert_array_equal(policy.router, trained.params["router"])
    prompt = TOKENS[:1, :4]
    out = model.generate(prompt, 5, AdaptiveDepth(depth=policy), stop_tokens=[], stop_strings=[])
    said = jnp.concatenate([prompt, out.tokens], axis=1)
    wanted = trained.model.forward(trained.params, said).argmax(-1)[:, 3:-1]
    np.testing.assert_array_equal(out.tokens, wanted)
    named = AdaptiveDepth(depth=str(run / "model" / DEPTH_FOLDER))
    again = model.generate(prompt, 5, named, stop_tokens=[], stop_strings=[])
    np.testing.assert_array_equal(again.tokens, out.tokens)


def block_over(decoder, params, index, hidden, positions):
    """A block over one row's tokens at these positions, as if there were no others."""

    @jax.jit
    def over(inputs, positions):
        stream, window = decoder.begin_forward(params, inputs, positions=positions)
        stream = dataclasses.replace(stream, hidden=inputs)
        return decoder.blocks[index].forward(params["blocks"][str(index)], stream, window).hidden

    return np.asarray(over(jnp.asarray(hidden)[None], jnp.asarray(positions)[None])[0])


def row_by_hand(recursive, params, tokens, counts):
    """(logits, cross-entropy of the choices) of one row."""
    decoder, weights, router = recursive.decoder, params["decoder"], np.asarray(params["router"])
    everywhere = inside = np.arange(len(tokens))
    embedded = np.asarray(decoder.embeddings(weights, tokens[None])[0])
    hidden, nats = block_over(decoder, weights, 0, embedded, everywhere), 0.0
    hidden = np.array(hidden)
    for r, count in enumerate(counts):
        scores = (hidden @ router[r])[inside]
        is_chosen = np.argsort(np.argsort(-scores)) < count
        nats += np.logaddexp(0, np.where(is_chosen, -scores, scores)).mean()
        gates = recursive.alpha / (1 + np.exp(-scores[is_chosen]))
        inside = inside[is_chosen]
        hidden[inside] += gates[:, None] * block_over(decoder, weights, 1, hidden[inside], inside)
    hidden = block_over(decoder, weights, 2, hidden, everywhere)
    norm = decoder.final_norm(weights["final_norm"], jnp.asarray(hidden)[None])
    return decoder.logits(weights, norm)[0], nats


@pytest.mark.sweep
def test_each_recursion_is_the_block_over_its_best_tokens():
    recursive = OBJECTIVE.extended(jm.config_from_hf(HF))
    params = init_params(recursive.spec(), jax.random.key(1))
    params["router"] *= 40.0
    shares = OBJECTIVE.shares(jnp.asarray([4, 4]))
    np.testing.assert_allclose(shares, [[1, 2 / 3, 1 / 3]] * 2, atol=1e-6)
    logits, nats = jax.jit(recursive.forward_choosing)(params, TOKENS, shares + 0.01)
    rows = [row_by_hand(recursive, params, row, (9, 6, 3)) for row in TOKENS]
    np.testing.assert_allclose(logits, np.stack([logits for logits, _ in rows]), rtol=1e-4, atol=1e-4)
    assert nats == pytest.approx(np.mean([nats for _, nats in rows]), rel=1e-4)


def test_of_equal_scores_the_first_are_best_and_none_that_is_not_among_them():
    scores = jnp.asarray([[1.0, 2.0, 2.0, 0.0, 5.0]])
    among = jnp.asarray([[True, True, True, True, False]])
    for count, wanted in ((0, []), (1, [1]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])):
        assert np.flatnonzero(best(scores, among, jnp.asarray([count]))[0]).tolist() == wanted


def test_shares_fall_from_all_to_those_of_the_recipe():
    shares = OBJECTIVE.shares(jnp.asarray([0, 2, 4, 9]))
    np.testing.assert_allclose(shares[:, 0], 1)
    np.testing.assert_allclose(shares[:, 2], [1, 2 / 3, 1 / 3, 1 / 3], atol=1e-6)
    assert (Recursions(last_share=1).shares(jnp.asarray([3])) == 1).all()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Recursions(recursions=1), "Recursions: recursions must be a whole number >= 2 .*got 1"),
        (lambda: Recursions(last_share=0.0), "Recursions: last_share must be .* got 0.0"),
        (lambda: Recursions(shared=3).extended(jm.config_from_hf(HF)), "no block shared=3, the model has 3"),
        (
            lambda: OBJECTIVE.extended(ScannedDecoder(jm.config_from_hf(HF))),
            "a ScannedDecoder has no block of its own .* stack must be 'unrolled'",
        ),
        (lambda: OBJECTIVE.extended(jm.load("tiny-llada-lists").config), "the model fills in masks"),
        (lambda: OBJECTIVE.check(jm.config_from_hf(HF)), "a Decoder has no router"),
    ],
)
def test_what_cannot_be_trained_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()
