"""What objectives see of a model, whichever way its blocks are run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masked_model import MASK, model, parameters, prepare, windows

from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.objectives.block_diffusion import BlockDiffusion
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.scorer import Scorer
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.router_losses import RouterLosses
from jaxmodels.training.train import init_state, make_train_step

MIXTURE = {
    "model_type": "mixtral",
    "vocab_size": MASK + 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
}


def test_a_scanned_stack_gives_the_same():
    for objective, of in (
        (MaskedDiffusion(complementary=True), model()),
        (BlockDiffusion(block=4), model(BlockCausal(4), offset=1)),
    ):
        scanned = ScannedDecoder(of)
        objective.check(scanned)
        example = prepare(objective, windows(batch=2, prompt=1), jax.random.key(0))
        valid = example.replace(valid=jnp.array([12, 12]))  # takes the way of padded windows
        expected = jax.jit(lambda p, o=objective, m=of, e=example: o.nats(Scorer(m, p), e))(parameters(of))
        run = jax.jit(lambda p, e, o=objective, m=scanned: o.nats(Scorer(m, p), e))
        stacked = jax.jit(scanned.stack)(parameters(of))
        for drawn in (example, valid):
            np.testing.assert_allclose(run(stacked, drawn), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.sweep
def test_router_losses_go_with_masked_models_and_micro_batches_change_nothing():
    decoder = dataclasses.replace(
        config_from_hf(MIXTURE), mask=BIDIRECTIONAL, filling=MaskFilling(mask_token=MASK)
    )
    schedule = WarmupCosine(peak=0.01, warmup_steps=1, total_steps=9)
    optimizer = AdamW(eps=1e-2).build(schedule, decoder.spec())
    found = []
    for accumulate in (1, 2):
        step = make_train_step(
            decoder,
            optimizer,
            schedule,
            objective=MaskedDiffusion(),
            accumulate=accumulate,
            router_losses=RouterLosses(z=0.01),
        )
        found.append(step(init_state(decoder, optimizer), windows(batch=4).tokens))
    (whole, metrics), (parts, again) = found
    assert metrics["finite"] == 1 and metrics["router_loss"] > 0 and metrics["busiest_expert"] >= 1
    np.testing.assert_allclose(
        again["loss"], metrics["loss"], rtol=1e-5
    )  # the same masks, drawn for the batch
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), parts.params, whole.params)
