"""Policies of depth are trained from a recipe, and what is written is read by name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import commit, peek, quick_jit

import jaxmodels as jm
from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.decoding.depth import LoRADrop, Plan
from jaxmodels.layers.spec import init_params
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.training.depth.duo import DuoTraining
from jaxmodels.training.depth.evaluate import compare, read_stepwise
from jaxmodels.training.depth.exits import MLP, Candidates, ExitTraining, Linear, Recurrent
from jaxmodels.training.depth.export import export_depth
from jaxmodels.training.depth.informed_routing import InformedRoutingTraining
from jaxmodels.training.depth.lora_drop import LoRADropTraining
from jaxmodels.training.depth.mind_skip import MindSkipTraining
from jaxmodels.training.depth.objective import Frozen
from jaxmodels.training.depth.plan_search import PlanSearch
from jaxmodels.training.depth.prompt_router import PromptRouterTraining
from jaxmodels.training.depth.recipe import DEPTH_RECIPES
from jaxmodels.training.depth.run import train_depth
from jaxmodels.training.fitting import Fit
from jaxmodels.training.optimizer import AdamW, WarmupCosine

TARGET = "tiny-llama-lists"


def short(training, folder):
    """A recipe of few steps, on a text that says the same 16 numbers over and over: see the draft heads'."""
    tokens = np.tile(np.random.default_rng(0).integers(0, jm.load(TARGET).config.vocab_size, 16), 36)
    for side in ("train", "held_out"):
        np.save(folder / f"{side}.npy", tokens.astype(np.int32))
    return dataclasses.replace(
        DEPTH_RECIPES.load("tiny_qwen3_exits_lora_drop"),
        target=TARGET,
        depth_policy=training,
        train_files=(str(folder / "train.npy"),),
        held_out_files=(str(folder / "held_out.npy"),),
        fit=Fit(
            schedule=WarmupCosine(peak=0.003, warmup_steps=1, total_steps=3),
            optimizer=AdamW(),
            batch_size=4,
        ),
        sequence_length=16,
        prompt=4,
        log_every=1,
        checkpoint_every=3,
    )


@pytest.mark.parametrize("name", DEPTH_RECIPES.names())
def test_recipes_are_written_as_they_are_read(name):
    recipe = DEPTH_RECIPES.load(name)
    written = json.loads(json.dumps(DEPTH_RECIPES.to_dict(recipe)))
    assert DEPTH_RECIPES.from_dict(written) == recipe
    assert DEPTH_RECIPES.recognises(name)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "training",
    [
        LoRADropTraining(dropped=(1, 2), period=4, rank=3),
        PromptRouterTraining(
            prompt=8, prompts=6, hidden=4, windows=2, search=PlanSearch(simulations=2, tolerance=1.0)
        ),
        InformedRoutingTraining(routed=(1, 2), rank=4),
        ExitTraining(classifier=Linear(), asked=(0, 1)),
        ExitTraining(classifier=MLP(hidden=5), asked=(1,)),
        ExitTraining(classifier=Candidates(draft=TARGET, count=3, hidden=5), asked=(0, 1)),
        ExitTraining(classifier=Recurrent(width=6, state_dim=3), asked=(0, 1), threshold=0.4),
    ],
    ids=[
        "lora_drop",
        "prompt_router",
        "informed_routing",
        "linear_exits",
        "mlp_exits",
        "candidate_exits",
        "recurrent_exits",
    ],
)
def test_a_run_ends_with_a_policy_that_is_read_by_its_name(training, tmp_path):
    losses = run_to_a_policy(training, tmp_path)
    assert losses[2] < losses[0]


@pytest.mark.sweep
def test_a_run_whose_choices_are_drawn_ends_with_a_policy_too(tmp_path):
    assert np.isfinite(run_to_a_policy(DuoTraining(d_ff=4), tmp_path)).all()


def run_to_a_policy(training, tmp_path):
    """The losses of a run whose policy decodes as the one that is read by its name."""
    run = train_depth(short(training, tmp_path), tmp_path / "run")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert 0 <= result["agreement"] <= 1
    assert 0 <= result["layers"] <= 2 * len(run.model.blocks)
    policy = export_depth(run, tmp_path / "policy", "float32")
    model = jm.load(TARGET)
    given = model.generate([[3, 5, 7, 9]], 12, AdaptiveDepth(depth=policy))
    named = model.generate([[3, 5, 7, 9]], 12, AdaptiveDepth(depth=str(tmp_path / "policy")))
    np.testing.assert_array_equal(named.tokens, given.tokens)
    return [json.loads(line)["loss"] for line in (tmp_path / "run/policy/metrics.jsonl").open()]


def test_routers_learn_the_plans_of_the_search(tmp_path):
    """On texts that cost nothing extra whatever is skipped, the shortest plan seen, and then the router's."""
    model = jm.load(TARGET)
    frozen = Frozen(model.config, model.params)
    training = PromptRouterTraining(
        prompt=8, prompts=3, hidden=4, windows=2, search=PlanSearch(simulations=3, tolerance=100.0)
    )
    windows = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, 12)).astype(np.int32)
    examples = training.examples(frozen, windows, seed=0)
    blocks = len(model.config.blocks)
    assert examples["means"].shape == (3, blocks, 2, model.config.d_model)
    assert (examples["verdicts"].sum(1) < blocks).all() and examples["there"].tolist() == [2, 2, 2]
    rows = np.random.default_rng(0).permutation(4)[:3]
    embedded = np.asarray(model.params["embed"]["weight"])[windows[rows, :8]].reshape(3, 2, 4, -1).mean(2)
    np.testing.assert_allclose(examples["means"][:, 0], embedded, atol=1e-5)
    with pytest.raises(ValueError, match=r"prompt=8 and prompts=3 need .* are 2 of sequence_length=12"):
        training.examples(frozen, windows[:2], seed=0)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("price", "read"), [(100.0, False), (0.0, True)], ids=["dear", "for_nothing"])
def test_routers_shut_mixers_that_cost_more_than_they_are_worth(price, read):
    model = jm.load(TARGET)
    frozen = Frozen(model.config, model.params)
    training = MindSkipTraining(routed=(1, 2), price=price)
    params = init_params(training.spec(model.config), jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 12)), jnp.int32)
    (_, nats), gradient = quick_jit(
        jax.value_and_grad(lambda params: training.loss(frozen, params, tokens, None), has_aux=True)
    )(params)
    assert nats == pytest.approx(0, abs=1e-4)  # everything is read at first
    policy = training.policy(None, {"weight": params["weight"] - gradient["weight"]})
    _, pending = peek(
        model.config, model.params, tokens, model.config.init_cache(2, 16, depth=policy), depth=policy
    )
    assert (np.asarray(commit(model.config, pending).memory) == int(read)).all()


def test_a_block_that_the_model_does_not_have_is_refused(tmp_path):
    recipe = short(LoRADropTraining(dropped=(1, 99)), tmp_path)
    with pytest.raises(ValueError, match="there is no block 99, the model has"):
        train_depth(recipe, tmp_path / "run")
    recipe = short(ExitTraining(classifier=Linear(), asked=(1, 99)), tmp_path)
    with pytest.raises(ValueError, match="there is no exit behind block 99 of a model of"):
        train_depth(recipe, tmp_path / "run")


@pytest.mark.sweep
def test_a_text_read_token_by_token_by_all_blocks_is_read_as_the_model_does():
    model = jm.load(TARGET)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, 12)).astype(np.int32)
    read = quick_jit(read_stepwise, static_argnums=0, static_argnames="prompt")
    logits, layers = read(model.config, model.params, ALL_LAYERS, jnp.asarray(tokens), prompt=5)
    np.testing.assert_allclose(logits, model(tokens)[:, 5:], atol=1e-4)
    assert (np.asarray(layers) == len(model.config.blocks)).all()
    found = compare(model.config, model.params, ALL_LAYERS, tokens, prompt=5)
    assert found.accuracy == found.policy_accuracy and found.agreement == 1 and found.lost_error == 0
    assert found.policy_nats == pytest.approx(found.nats, abs=1e-5)


def test_the_error_of_what_is_lost_is_that_of_the_mean_over_texts():
    """Found from each text by itself, in batches of any size."""
    model = jm.load(TARGET)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (3, 12)).astype(np.int32)
    policy = Plan(passes=(1, *(0,) * (len(model.config.blocks) - 1)))
    *alone, together = (
        compare(model.config, model.params, policy, some, prompt=5, batch_size=1)
        for some in (tokens[:1], tokens[1:2], tokens[2:], tokens)
    )
    lost = np.asarray([it.accuracy - it.policy_accuracy for it in alone])
    assert [it.lost_error for it in alone] == [None] * 3
    assert together.lost_error == pytest.approx(lost.std(ddof=1) / np.sqrt(3), abs=1e-6)
    assert together.accuracy - together.policy_accuracy == pytest.approx(lost.mean(), abs=1e-6)


def test_texts_that_are_no_longer_than_their_prompt_are_refused():
    model = jm.load(TARGET)
    with pytest.raises(ValueError, match="prompt must lie from 1 to 6 for these windows, got 7"):
        compare(model.config, model.params, ALL_LAYERS, np.zeros((1, 8), np.int32), prompt=7)


def test_the_policy_that_is_trained_is_the_one_of_the_recipe():
    training = LoRADropTraining(dropped=[1, 2], rank=3, period=5, reused="update", unread="propagate")
    params = {"down": np.ones((2, 3, 4)), "up": np.ones((2, 4, 3)), "share": np.ones(2)}
    policy = training.policy(None, params)
    assert isinstance(policy, LoRADrop)
    assert (policy.dropped, policy.period, policy.scale) == ((1, 2), 5, 3.0)
    assert (policy.reused, policy.unread) == ("update", "propagate")
