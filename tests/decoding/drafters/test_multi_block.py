"""Multi-block decoding: its rounds as those of the published iteration with lists, and equality."""

import math

import pytest
from greedy_model import agreement, next_tokens
from step_enumeration import assert_exact_step, tiny
from strategy_helpers import PROMPTS, architecture, assert_same_generation, decode, expected, stop_inside

from jaxmodels.decoding import MultiBlock, Speculative

NEW = 22
RECYCLING = MultiBlock(block=5, blocks=2, spawn=0.6, pool=4)
CHAIN = MultiBlock(block=3, blocks=3, spawn=0.3, pool=0)
OTHERS = [
    pytest.param(name, drafter, marks=pytest.mark.sweep, id=name)
    for name, drafter in (("delta", RECYCLING), ("latent", CHAIN), ("ring", RECYCLING))
]


def strategy_of(drafter):
    return Speculative(draft=drafter, top_logprobs=2)


def rounds_of(choose, drafter, prompt, first_token):
    """(calls, accepted tokens) of the iteration, one row, with lists."""
    size, pad = drafter.block, 0
    blocks, accepted, kept = [[first_token] * size], [0], []
    history, new, calls, total = [*prompt, first_token], [first_token], 0, 0
    while len(new) < NEW:
        at = accepted[0]
        rest = blocks[0][at + 1 :]
        ahead = [token for block in blocks[1:] for token in block]
        draft = rest + ahead
        ways = [draft]
        for earlier in kept[:-1]:
            if history[-1] in earlier:
                found = earlier[earlier.index(history[-1]) + 1 :]
                ways.append((found + draft[len(found) :])[: min(size - 1, len(draft))])
        tried = [agreement(choose, history, way) for way in ways]
        best = max(range(len(ways)), key=lambda i: tried[i][0])
        count, said = tried[best]
        emitted = said[: count + 1]
        calls, total = calls + 1, total + min(count, NEW - len(new))
        history, new = history + emitted, new + emitted
        before = [list(block) for block in blocks]
        own = tried[0][1]  # behind the draft's tokens, of which the first is the newest
        for b in range(1, len(blocks)):
            behind = own[b * size - at : (b + 1) * size - at]
            c = accepted[b]
            if c < size:
                c += 1
                while c < size and blocks[b][c] == behind[c - 1]:
                    c += 1
            blocks[b] = blocks[b][:c] + behind[c - 1 : size - 1]
            accepted[b] = c
        blocks[0] = (blocks[0][: at + 1] + said)[:size]
        flat = [token for block in blocks for token in block] + [emitted[-1]] * size
        flat[at + 1 : at + 1 + len(emitted)] = emitted
        newest = at + len(emitted)
        blocks = [flat[i * size : (i + 1) * size] for i in range(len(blocks) + 1)]
        active = len(accepted)
        if newest < size:
            kept += [
                [token for block in [blocks[0], *before[1:]] for token in block],
                blocks[0][newest + 1 :],
            ]
            kept = kept[-drafter.pool :] if drafter.pool else []
        done = newest // size
        blocks, accepted = blocks[done : max(active, done + 1)], [newest % size, *accepted[done + 1 :]]
        if accepted[-1] >= math.ceil(drafter.spawn * size) and len(blocks) < drafter.blocks:
            tail = blocks[0][accepted[0] :]
            blocks.append(tail + [pad] * (size - len(tail)))
            accepted.append(0)
    return calls, total


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("drafter", [RECYCLING, CHAIN], ids=["recycling", "chain"])
def test_rounds_are_those_of_the_iteration(drafter):
    config, params = architecture("attention")
    choose = next_tokens(config, params, max(map(len, PROMPTS)) + NEW + drafter.blocks * drafter.block)
    ours = decode(config, params, strategy_of(drafter), new=NEW)
    for b, prompt in enumerate(PROMPTS):
        calls, accepted = rounds_of(choose, drafter, prompt, int(ours.tokens[b, 0]))
        assert (ours.counters["calls"][b], ours.counters["accepted"][b]) == (calls, accepted)
    assert ours.counters["accepted"].sum() > 0


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("name", "drafter"), [("attention", RECYCLING), ("hybrid", RECYCLING), ("hybrid", CHAIN), *OTHERS]
)
def test_greedy_equals_autoregressive_decoding(name, drafter):
    config, params = architecture(name)
    plain = expected(name, new=NEW)
    assert_same_generation(decode(config, params, strategy_of(drafter), new=NEW), plain)
    stop = stop_inside(plain.tokens)
    stopped = decode(config, params, strategy_of(drafter), new=NEW, stop=[stop])
    assert_same_generation(stopped, expected(name, new=NEW, stop=(stop,)))


@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution():
    strategy = Speculative(draft=MultiBlock(block=2, blocks=1, pool=2))
    assert_exact_step(*tiny("attention", 0), strategy, levels=0, kept=[0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 1}, "block must be a whole number >= 2 .*, got 1"),
        ({"blocks": 0}, "blocks must be a whole number >= 1 .*, got 0"),
        ({"pool": -1}, "pool must be a whole number >= 0 .*, got -1"),
        ({"spawn": 1.5}, "spawn must be a finite number .*, got 1.5"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiBlock(**arguments)
