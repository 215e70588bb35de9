"""What a decoder tells of its routing, and how routing travels from block to block."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, D_MODEL, VOCAB, attention, draw_tokens, quick_jit, random_params

import jaxmodels as jm
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import Capacity, ExpertChoice, GatedExperts, MoE, ResidualRouter
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Block, ParallelBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scanned import ScannedDecoder

NORM = RMSNorm(dim=D_MODEL)
MIXTURE = MoE(
    router=ResidualRouter(d_model=D_MODEL, num_experts=4, zero_expert=False),
    experts=GatedExperts(num_experts=4, d_model=D_MODEL, d_ff=8),
)
DENSE = GatedMLP(d_model=D_MODEL, d_ff=8)


def decoder(*ffns, parallel=False):
    kind = ParallelBlock if parallel else Block
    blocks = tuple(
        kind(mixer_norm=NORM, mixer=attention(sliding_window=3), ffn_norm=NORM, ffn=ffn) for ffn in ffns
    )
    return Decoder(vocab_size=VOCAB, d_model=D_MODEL, blocks=blocks, final_norm=NORM)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("parallel", [False, True])
def test_each_mixture_sees_the_logits_of_the_one_before(parallel):
    config = decoder(MIXTURE, DENSE, MIXTURE, parallel=parallel)
    params, tokens = random_params(config.spec()), draw_tokens(2, 6)
    logits, routings = quick_jit(config.forward_with_routing)(params, tokens)
    assert list(routings) == ["0", "2"]
    np.testing.assert_allclose(logits, quick_jit(config.forward)(params, tokens), atol=1e-6)

    before, *carried = carried_logits(config, params, tokens)
    assert not before.any()
    for i, after in enumerate(carried):
        if str(i) in routings:
            np.testing.assert_allclose(after, routings[str(i)].logits, atol=1e-5)
            router = params["blocks"][str(i)]["ffn"]["router"]
            own = routings[str(i)].logits - before @ np.asarray(router["w_previous"]).T
            if i == 0:
                np.testing.assert_allclose(own, routings["0"].logits, atol=1e-5)
            else:
                assert np.abs(own - routings[str(i)].logits).max() > 1e-3
        else:
            np.testing.assert_array_equal(after, before)
        before = after


def carried_logits(config, params, tokens):
    """What the stream carries in front of each block and behind the last, block by block."""

    def by_hand(params, tokens):
        window = fresh_window(tokens)
        streams = [config.embed(params, tokens, window)]
        for i, block in enumerate(config.blocks):
            streams.append(block.forward(params["blocks"][str(i)], streams[-1], window))
        return [stream.router_logits for stream in streams]

    return [np.asarray(logits) for logits in quick_jit(by_hand)(params, tokens)]


def test_scanned_blocks_route_alike_and_stack_their_routing():
    config = decoder(MIXTURE, DENSE, MIXTURE, DENSE)
    scanned = ScannedDecoder(config)
    params, tokens = random_params(config.spec()), draw_tokens(2, 6)
    logits, routings = quick_jit(config.forward_with_routing)(params, tokens)
    again, stacked = quick_jit(scanned.forward_with_routing)(scanned.stack(params), tokens)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    assert list(stacked) == ["0"]
    for repeat, name in enumerate(["0", "2"]):
        np.testing.assert_allclose(stacked["0"].logits[repeat], routings[name].logits, atol=1e-5)


def test_padding_is_marked_in_the_routing():
    config = decoder(MIXTURE)
    routed = quick_jit(config.forward_with_routing)
    _, routings = routed(random_params(config.spec()), draw_tokens(2, 4), valid=jnp.asarray([4, 1]))
    np.testing.assert_array_equal(routings["0"].valid, [[True] * 4, [True, False, False, False]])


def test_models_without_mixtures_carry_nothing():
    config = ARCHITECTURES["attention"]
    params, tokens = random_params(config.spec()), draw_tokens(1, 3)
    stream = config.embed(params, tokens, fresh_window(tokens))
    assert stream.router_logits is stream.routings is None
    assert quick_jit(config.forward_with_routing)(params, tokens)[1] == {}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"router": ExpertChoice(d_model=D_MODEL, num_experts=4)}, "ExpertChoice"),
        ({"dispatch": Capacity(factor=2.0)}, "Capacity"),
    ],
)
def test_layers_that_look_ahead_are_refused_before_generation(changes, found):
    config = decoder(DENSE, dataclasses.replace(MIXTURE, **changes))
    model = jm.Model(config=config, params=random_params(config.spec()))
    with pytest.raises(ValueError, match=rf"block 1 cannot decode token by token: .*{found}"):
        model.generate([[1, 2]], 3)
    model(np.asarray([[1, 2]]))
