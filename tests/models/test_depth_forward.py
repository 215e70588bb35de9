"""Whole sequences by a policy are its windows without a history, and can be differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, peek, quick_jit, random_params

from jaxmodels.decoding.depth import Budget, LoRADrop, MaxProbability, Plan, RowPlans, UntilConfident
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.models.depth_forward import depths_of, forward_by_depth

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 7)
RNG = np.random.default_rng(4)
LORA_DROP = LoRADrop(
    down=jnp.asarray(RNG.standard_normal((2, 3, 16)) / 4, jnp.float32),
    up=jnp.asarray(RNG.standard_normal((2, 16, 3)) / 4, jnp.float32),
    dropped=(1, 2),
    period=3,
    scale=5.0,
)
POLICIES = {
    "all": ALL_LAYERS,
    "budget": Budget(blocks=np.asarray([3, 3, 2, 1]), unread="propagate"),
    "plan": Plan((2, 0, 1)),
    "rows": RowPlans(np.asarray([[1, 2, 0], [0, 1, 1]])),
    "confident": UntilConfident(confidence=MaxProbability(), threshold=0.08, min_layers=1),
    "lora_drop": LORA_DROP,
}


@quick_jit
def read(policy):
    logits, walk = forward_by_depth(CONFIG, PARAMS, TOKENS, policy)
    return logits, walk.depth, depths_of(walk)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", POLICIES)
def test_a_sequence_is_a_window_without_a_history(name):
    policy = POLICIES[name]
    logits, depth, mean = read(policy)
    wanted, pending = peek(CONFIG, PARAMS, TOKENS, CONFIG.init_cache(2, 8, depth=policy), depth=policy)
    np.testing.assert_allclose(logits, wanted, atol=2e-5)
    np.testing.assert_array_equal(depth, pending.depth)
    assert float(mean) == pytest.approx(np.mean(pending.depth))


@pytest.mark.sweep
def test_the_parameters_of_a_policy_have_gradients():
    def squares(policy):
        return (forward_by_depth(CONFIG, PARAMS, TOKENS, policy)[0] ** 2).mean()

    gradients = quick_jit(jax.grad(squares))(LORA_DROP)
    step, largest = 1e-3, int(np.argmax(np.abs(gradients.up)))
    at = np.unravel_index(largest, LORA_DROP.up.shape)
    value = quick_jit(squares)
    ends = [value(LoRADrop(**vars(LORA_DROP) | {"up": LORA_DROP.up.at[at].add(by)})) for by in (step, -step)]
    assert float(gradients.up[at]) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=0.02)
    assert all(np.abs(leaf).max() > 0 for leaf in (gradients.down, gradients.up, gradients.share))
