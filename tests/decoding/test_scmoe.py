"""SCMoE against a loop over full forwards of the model and its weakened twin."""

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ATTENTION, D_MODEL, VOCAB, forward, random_params
from strategy_helpers import PROMPTS, architecture, assert_same_generation, decode

from jaxmodels.decoding import SCMoE
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.scmoe import weaken
from jaxmodels.layers.moe import GatedExperts, MoE, Ranked, SoftmaxTopK
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder

WIDTH = 12
NORM = RMSNorm(dim=D_MODEL)
MIXTURE = MoE(
    router=SoftmaxTopK(d_model=D_MODEL, num_experts=5, top_k=2),
    experts=GatedExperts(num_experts=5, d_model=D_MODEL, d_ff=12),
)
BLOCK = Block(mixer_norm=NORM, mixer=ATTENTION, ffn_norm=NORM, ffn=MIXTURE)
CONFIG = Decoder(vocab_size=VOCAB, d_model=D_MODEL, blocks=(BLOCK,) * 2, final_norm=NORM)
PARAMS = random_params(CONFIG.spec())


def contrasted(prompt, new, ranks, beta, alpha):
    """Greedy tokens from the contrast of two full forwards per token."""
    weak, tokens = weaken(CONFIG, ranks), list(prompt)
    for _ in range(new):
        window = jnp.asarray([tokens + [0] * (WIDTH - len(tokens))])
        strong_logits, weak_logits = (
            np.asarray(forward(config, PARAMS, window)[0, len(tokens) - 1], np.float64)
            for config in (CONFIG, weak)
        )
        probabilities = np.exp(strong_logits - strong_logits.max())
        scores = (1 + beta) * strong_logits - beta * weak_logits
        scores[probabilities < alpha] = -np.inf
        tokens.append(int(scores.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.sweep
def test_equals_full_forwards_of_both_activations():
    strategy = SCMoE(ranks=(1, 3), beta=0.8, alpha=0.2)
    out = decode(CONFIG, PARAMS, strategy, prompts=PROMPTS[:2], new=5)
    plain = decode(CONFIG, PARAMS, Autoregressive(), prompts=PROMPTS[:2], new=5)
    for row, prompt in enumerate(PROMPTS[:2]):
        assert out.tokens[row, :5].tolist() == contrasted(prompt, 5, (1, 3), 0.8, 0.2)
    assert (out.tokens != plain.tokens).any()


@pytest.mark.sweep
def test_without_contrast_it_is_sequential_decoding():
    ours = decode(CONFIG, PARAMS, SCMoE(beta=0.0, top_logprobs=2), stop=(7,))
    assert_same_generation(ours, decode(CONFIG, PARAMS, Autoregressive(top_logprobs=2), stop=(7,)))


def test_the_weak_activation_takes_the_experts_at_the_ranks():
    ranked = Ranked(router=MIXTURE.router, ranks=(1, 4))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, D_MODEL)), jnp.float32)
    params = random_params(ranked.spec())
    best, routing = MIXTURE.router(params, x), ranked(params, x)
    order = np.argsort(-np.asarray(best.scores), axis=-1)
    np.testing.assert_array_equal(routing.experts, order[..., [1, 4]])
    chosen = np.take_along_axis(np.asarray(best.scores), order[..., [1, 4]], axis=-1)
    np.testing.assert_allclose(routing.weights, chosen / chosen.sum(-1, keepdims=True), rtol=1e-5)
    assert ranked.spec() == MIXTURE.router.spec()


def test_what_cannot_be_contrasted_is_refused():
    with pytest.raises(ValueError, match="the model has none"):
        decode(*architecture("attention"), SCMoE())
    with pytest.raises(ValueError, match=r"below num_experts=5, got \(5,\)"):
        decode(CONFIG, PARAMS, SCMoE(ranks=(5,)))
    with pytest.raises(ValueError, match=r"alpha must be a finite number > 0 and <= 1, got 0"):
        SCMoE(alpha=0)
    with pytest.raises(ValueError, match="beta must be a finite number >= 0, got -1"):
        SCMoE(beta=-1)
