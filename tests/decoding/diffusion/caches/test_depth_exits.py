"""Exits: by a table and by uncertainty against plain Python, and the loss that trains heads against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import quick_jit
from step_caches import by_hand, canvases, embedded, finished, full, plan_at, run, through, tiny

from jaxmodels.decoding.diffusion.caches.depth_table import DepthTable
from jaxmodels.decoding.diffusion.caches.exit_heads import EXITS, exit_prediction, uncertainty, with_exits
from jaxmodels.decoding.diffusion.caches.exit_training import ExitTraining, Noised, exit_losses
from jaxmodels.decoding.diffusion.caches.uncertainty_exit import UncertaintyExit

STEPS = 6
PLAN = plan_at(np.linspace(950, 50, STEPS))


@pytest.fixture(scope="module", params=["UViT", "DiT"])
def model(request):
    config, params, condition = tiny(request.param, depth=4)
    heads = with_exits(config, params)[EXITS]
    rng = np.random.default_rng(1)
    heads = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), heads)
    channels = config.projections.in_channels
    return config, params | {EXITS: heads}, canvases(STEPS, channels=channels), PLAN, condition


predicted = quick_jit(exit_prediction, static_argnums=2)
unsureness = quick_jit(uncertainty, static_argnums=2)


def behind(step, blocks):
    streams = embedded(step)
    for block in range(blocks):
        streams = through(step, streams, range(block, block + 1))
    return streams


@pytest.mark.wide(every_run=1)
def test_a_table_of_depths(model):
    config, params, xs, plan, condition = model
    depths = [1, 3, 4, 2, config.num_blocks, 1]

    def rule(i, step):
        streams = behind(step, depths[i])
        if depths[i] == config.num_blocks:
            return finished(step, streams)
        return predicted(step, streams, depths[i] - 1)

    found, blocks, _ = run(DepthTable(depths), config, params, xs, plan, condition)
    wanted = by_hand(*model, rule)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert blocks.tolist() == depths


def test_each_row_takes_the_first_head_that_is_sure(model):
    config, params, xs, plan, condition = model
    first, computed = [], []
    by_hand(*model, lambda i, step: first.append(unsureness(step, behind(step, 1), 0)))
    threshold = float(
        np.median(np.max(first, axis=1))
    )  # the first head is sure of both rows in half of the steps

    def rule(i, step):
        chosen, last = [None, None], 0
        for block in range(config.num_blocks - 1):
            streams = behind(step, block + 1)
            unsure, given = jax.device_get(
                (unsureness(step, streams, block), predicted(step, streams, block))
            )
            for row in range(2):
                if chosen[row] is None and unsure[row] < threshold:
                    chosen[row], last = given[row], max(last, block + 1)
        if any(row is None for row in chosen):
            last, given = config.num_blocks, np.asarray(finished(step, behind(step, config.num_blocks)))
            chosen = [given[row] if chosen[row] is None else chosen[row] for row in range(2)]
        computed.append(last)
        return np.stack(chosen)

    found, blocks, _ = run(UncertaintyExit(threshold), config, params, xs, plan, condition)
    wanted = by_hand(*model, rule)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert blocks.tolist() == computed and len(set(computed)) > 1


def test_no_exit_is_the_model(model):
    config, params, xs, plan, condition = model
    wanted = full(*model)
    for cache in (UncertaintyExit(0), DepthTable([config.num_blocks] * STEPS)):
        found, blocks, _ = run(cache, config, params, xs, plan, condition)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        assert set(blocks) == {config.num_blocks}


def test_the_loss_is_that_of_the_reproduction():
    rng = np.random.default_rng(0)
    heads, unsure = rng.normal(size=(3, 2, 4, 4, 1)), rng.random((3, 2))
    final, target = rng.normal(size=(2, 2, 4, 4, 1))
    theirs = torch.tensor(heads), torch.tensor(unsure), torch.tensor(final), torch.tensor(target)
    outputs, classifier, backbone, truth = theirs
    wanted_unsure = torch.tanh((outputs - truth).abs()).mean(dim=(-1, -2, -3))
    errors = ((outputs - truth) ** 2).mean(dim=(-1, -2, -3))
    losses = exit_losses(*map(jnp.asarray, (heads, unsure, final, target)))
    mse = torch.nn.functional.mse_loss
    assert losses.final == pytest.approx(mse(backbone, truth).item(), rel=1e-5)
    assert losses.uncertainty == pytest.approx(
        mse(classifier, wanted_unsure, reduction="sum").item(), rel=1e-5
    )
    weighted = ((1 - wanted_unsure) * errors).mean(dim=1).sum(dim=0)
    assert losses.heads == pytest.approx(weighted.item(), rel=1e-5)


def test_training_changes_heads_alone_for_the_better():
    config, params, condition = tiny("SiT")
    x = jnp.asarray(canvases(1)[0])
    noised = Noised(x=x, t=jnp.full(2, 500.0), condition=condition, target=0.3 * x)
    seen = []
    trained = ExitTraining(steps=30, learning_rate=0.02).train(
        config, params, lambda step: noised, lambda step, losses: seen.append(losses)
    )
    assert seen[-1].heads < 0.5 * seen[0].heads
    assert seen[-1].uncertainty < 0.2 * seen[0].uncertainty
    assert seen[-1].final == seen[0].final
    assert all(trained[name] is params[name] for name in params)


def test_what_does_not_fit():
    config, params, condition = tiny("DiT")
    xs = canvases(2)
    plan = plan_at([900, 100])
    with pytest.raises(ValueError, match=r"params\['exits'\]: a model of 2 blocks needs 1 heads.*got 0"):
        run(DepthTable([1, 2]), config, params, xs, plan, condition)
    with pytest.raises(ValueError, match="depths: the model has 2 blocks, got 3"):
        DepthTable([1, 3]).rows(config, plan)
    with pytest.raises(ValueError, match="depths: the table is made for 3 steps, but the run has 2 calls"):
        DepthTable([1, 1, 1]).rows(config, plan)
    with pytest.raises(ValueError, match=r"depths must be a whole number >= 1 for each step, got \[0, 1\]"):
        DepthTable([0, 1])
    with pytest.raises(ValueError, match="threshold must be a finite number >= 0 and <= 1, got 2"):
        UncertaintyExit(2)


def test_heads_begin_as_the_end_of_the_model():
    config, params, _ = tiny("UViT")
    heads = with_exits(config, params)[EXITS]
    assert list(heads) == [str(i) for i in range(config.num_blocks - 1)]
    assert heads["0"]["out"] is params["out"] and heads["0"]["final_norm"] is params["final_norm"]
