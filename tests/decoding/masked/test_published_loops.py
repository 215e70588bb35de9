"""Whole answers, step for step, against the published loops written out around a Llama of transformers."""

from collections import defaultdict

import numpy as np
import pytest
from levenshtein_by_hand import TOKENS, Levenshtein
from masked_loops import MASK, VOCAB, canvases, models, prompts
from seen_cases import softmax

from jaxmodels.decoding import MaskedDiffusion
from jaxmodels.decoding.masked import ClassifierFree, Dual, FinishedBlocks, FixedBlocks, Recompute, Threshold
from jaxmodels.decoding.masked.blocks import AdaBlocks, SubBlocks
from jaxmodels.decoding.masked.remask import JointThreshold, LevenshteinEdits
from jaxmodels.decoding.masked.stop import Exponential, SchED
from jaxmodels.decoding.masked.unmask import (
    CreditDecoding,
    Dream,
    EndsLast,
    Factor,
    Margin,
    NegativeEntropy,
    PipelinedEntropy,
    Probability,
    Quota,
    ReleasedFactor,
    StrictThreshold,
)

NEW, BLOCK = 16, 8


def steps_of(loop, strategy, *lengths, block=None, offset=0):
    """Asserts that our steps are those that `loop(peer, canvas, start)` yields; them, for each prompt."""
    peer, config, params = models(block, offset)
    answers = []
    for prompt in prompts(*lengths):
        canvas = np.concatenate([prompt, np.full(NEW, MASK)])
        theirs = [step.tolist() for step in loop(peer, canvas, len(prompt))]
        ours, answer = canvases(config, params, strategy, prompt, NEW)
        assert ours == theirs
        assert answer == theirs[-1][len(prompt) :]
        answers.append(theirs)
    return answers


def filled(canvas, proposed, places):
    canvas[places] = proposed[places]
    return canvas.copy()


def surest(confidence, places, count):
    return sorted(places, key=lambda place: -confidence[place])[:count]


def llada(steps, *, weight=0.0, ends=()):
    """`generate` of LLaDA at temperature 0: `steps` in all."""

    def loop(peer, canvas, start):
        is_prompt = canvas != MASK
        per_block = steps * BLOCK // NEW
        for first in range(start, len(canvas), BLOCK):
            block = range(first, first + BLOCK)
            unknown = sum(canvas[place] == MASK for place in block)
            for step in range(per_block):
                logits = peer.logits(canvas)
                if weight:
                    without = peer.logits(np.where(is_prompt, MASK, canvas))
                    logits, without = np.delete(logits, MASK, 1), np.delete(without, MASK, 1)
                    guided = without + (weight + 1) * (logits - without)
                    logits = np.insert(guided, MASK, -np.inf, axis=1)
                proposed = logits.argmax(-1)
                logits[:, list(ends)] = -np.inf
                confidence = softmax(logits)[np.arange(len(canvas)), proposed]
                count = unknown // per_block + (step < unknown % per_block)
                open_places = [place for place in block if canvas[place] == MASK]
                yield filled(canvas, proposed, surest(confidence, open_places, count))

    return loop


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("steps", "loop", "options"),
    [
        (12, llada(12), {}),
        (6, llada(6, weight=1.5), {"guidance": ClassifierFree(1.5)}),
        pytest.param(
            8, llada(8, ends=(3, 17, 25)), {"unmask": Quota(EndsLast((3, 17, 25)))}, marks=pytest.mark.sweep
        ),
    ],
    ids=["low confidence", "guidance", "ends last"],
)
def test_llada(steps, loop, options):
    strategy = MaskedDiffusion(
        blocks=FixedBlocks(BLOCK), steps=steps * BLOCK // NEW, **{"unmask": Quota(), **options}
    )
    for answer in steps_of(loop, strategy, 5, 9):
        assert len(answer) == steps


def margin(p):
    first, second = np.sort(p, axis=-1)[:, [-1, -2]].T
    return first - second


DREAM = {
    "maskgit_plus": (Probability(), lambda p: p.max(-1)),
    "topk_margin": (Margin(), margin),
    "entropy": (NegativeEntropy(), lambda p: (p * np.log(p + 1e-10)).sum(-1)),
}


def dream(steps, measure, exits=None):
    """`diffusion_generate` of Dream at temperature 0; `exits(step, margins)` is SchED's."""

    def loop(peer, canvas, start):
        times = np.linspace(1, 1e-3, steps + 1)
        for step in range(steps):
            logits = peer.logits(canvas)
            logits = np.concatenate([logits[:1], logits[:-1]])
            proposed, p = logits.argmax(-1), softmax(logits)
            unknown = np.flatnonzero(canvas == MASK)
            if exits is not None:
                first, second = np.sort(logits[unknown], axis=-1)[:, [-1, -2]].T
                if exits(step, first - second):
                    yield filled(canvas, proposed, unknown)
                    return
            count = int(len(unknown) * (1 - times[step + 1] / times[step]))
            count = len(unknown) if step == steps - 1 else count
            yield filled(canvas, proposed, surest(measure(p), unknown, count))

    return loop


@pytest.mark.parametrize(
    "alg",
    [
        "entropy",
        pytest.param("maskgit_plus", marks=pytest.mark.sweep),
        pytest.param("topk_margin", marks=pytest.mark.sweep),
    ],
)
def test_dream(alg):
    """All of its 16 steps for 16 tokens, of which the first fills in none."""
    by, measure = DREAM[alg]
    strategy = MaskedDiffusion(blocks=FixedBlocks(NEW), steps=16, unmask=Dream(by=by))
    (answer,) = steps_of(dream(16, measure), strategy, 6, offset=1)
    assert answer[0][6:] == [MASK] * NEW
    assert len(answer) == 16


def test_sched_on_dream():
    def exits(step, margins):
        return margins.mean() >= 0.5 + (3.0 - 0.5) * np.exp(-3.0 * step / 15)

    stop = SchED(threshold=Exponential(high=3.0, low=0.5, rate=3.0))
    strategy = MaskedDiffusion(blocks=FixedBlocks(NEW), steps=16, unmask=Dream(), stop=stop)
    loop = dream(16, DREAM["maskgit_plus"][1], exits)
    (answer,) = steps_of(loop, strategy, 9, offset=1)
    assert 1 < len(answer) < 16
    assert answer[-2].count(MASK) > 1


def reached(threshold):
    """Fast-dLLM's places by a threshold."""

    def choose(confidence, unknown):
        return [i for i in unknown if confidence[i] >= threshold] or surest(confidence, unknown, 1)

    return choose


def by_factor(factor):
    def choose(confidence, unknown):
        places = surest(confidence, unknown, None)
        passing = [n for n in range(2, len(places) + 1) if (n + 1) * (1 - confidence[places[n - 1]]) < factor]
        return places[: max(passing, default=1)]

    return choose


def released_factor(factor):
    def choose(confidence, unknown):
        places = surest(confidence, unknown, None)
        for index, place in enumerate(places):
            if index and confidence[place] < 1 - factor / (index + 2):
                break
        return places[: index + (index in (0, len(places) - 1))]

    return choose


def fast_dllm(choose):
    """The loop of Fast-dLLM without a cache."""

    def loop(peer, canvas, start):
        for first in range(start, len(canvas), BLOCK):
            while len(unknown := first + np.flatnonzero(canvas[first : first + BLOCK] == MASK)):
                logits = peer.logits(canvas)
                yield filled(canvas, logits.argmax(-1), choose(softmax(logits).max(-1), unknown))

    return loop


@pytest.mark.parametrize(
    ("choose", "unmask"),
    [
        (reached(0.5), Threshold(0.5)),
        pytest.param(by_factor(1.7), Factor(1.7), marks=pytest.mark.sweep),
        pytest.param(released_factor(1.7), ReleasedFactor(1.7), marks=pytest.mark.sweep),
    ],
    ids=["threshold", "factor", "released factor"],
)
def test_fast_dllm(choose, unmask):
    strategy = MaskedDiffusion(blocks=FixedBlocks(BLOCK), unmask=unmask)
    for answer in steps_of(fast_dllm(choose), strategy, 5, 9):
        assert 2 < len(answer) < NEW


@pytest.mark.sweep
def test_the_dual_cache_of_fast_dllm_read_anew_in_every_step():
    strategy = MaskedDiffusion(blocks=FixedBlocks(BLOCK), unmask=Threshold(0.5), cache=Dual(interval=1))
    steps_of(fast_dllm(reached(0.5)), strategy, 5)


def test_credit_decoding():
    def loop(peer, canvas, start):
        for first in range(start, len(canvas), BLOCK):
            credit = np.zeros((len(canvas), VOCAB))
            while len(unknown := first + np.flatnonzero(canvas[first : first + BLOCK] == MASK)):
                logits = peer.logits(canvas)
                p = softmax(logits)
                credit *= 0.8
                for place in unknown:
                    credit[place, p[place].argmax()] += p[place].max() ** 0.2
                fused = logits + 0.7 * np.log(1 + credit)
                yield filled(canvas, fused.argmax(-1), reached(0.5)(softmax(fused).max(-1), unknown))

    strategy = MaskedDiffusion(blocks=FixedBlocks(BLOCK), unmask=CreditDecoding(then=Threshold(0.5)))
    for answer in steps_of(loop, strategy, 5, 9):
        assert len(answer) < NEW


def test_adaptive_blocks():
    """Delimiters among the ten most proposed tokens, so that there are some."""
    peer, *_ = models()
    proposals = np.concatenate([peer.logits(np.append(p, [MASK] * NEW)).argmax(-1) for p in prompts(5, 9)])
    delimiters = tuple(np.bincount(proposals).argsort()[-10:].tolist())
    ends = defaultdict(int)

    def loop(peer, canvas, start):
        first = start
        while first < len(canvas):
            logits = peer.logits(canvas)
            confidence, proposed = softmax(logits).max(-1), logits.argmax(-1)
            window = range(first, min(first + 6, len(canvas)))
            at = max(
                (i for i in window if proposed[i] in delimiters), key=confidence.__getitem__, default=None
            )
            is_sure = at is not None and confidence[at] >= 0.2
            end = at + 1 if is_sure else min(first + BLOCK, len(canvas))
            ends[is_sure] += 1
            while len(unknown := first + np.flatnonzero(canvas[first:end] == MASK)):
                logits = peer.logits(canvas)
                yield filled(canvas, logits.argmax(-1), reached(0.5)(softmax(logits).max(-1), unknown))
            first = end

    blocks = AdaBlocks(default=BLOCK, window=6, threshold=0.2, delimiters=delimiters)
    steps_of(loop, MaskedDiffusion(blocks=blocks, unmask=Threshold(0.5)), 5, 9, 2)
    assert ends[True] and ends[False]


def test_shares_of_adaptive_blocks_are_those_of_the_blocks_they_become():
    def loop(peer, canvas, start):
        first = start
        while first < len(canvas):
            logits = peer.logits(canvas)
            delimiters = [i for i in range(first, min(first + 6, len(canvas))) if logits[i].argmax() < 20]
            confidence = softmax(logits).max(-1)
            end = max(delimiters, key=confidence.__getitem__, default=first + BLOCK - 1) + 1
            end = min(end, len(canvas))
            size, steps = end - first, min(2, end - first)
            for step in range(steps):
                logits = peer.logits(canvas)
                unknown = first + np.flatnonzero(canvas[first:end] == MASK)
                count = size // 2 + (step < size % 2)
                places = surest(softmax(logits).max(-1), unknown, max(count, 1))
                yield filled(canvas, logits.argmax(-1), places)
            first = end

    blocks = AdaBlocks(default=BLOCK, window=6, threshold=0.0, delimiters=range(20))
    steps_of(loop, MaskedDiffusion(blocks=blocks, unmask=Quota(), steps=2), 5, 9)


@pytest.mark.parametrize(
    "cache",
    [pytest.param(Recompute(), marks=pytest.mark.sweep), FinishedBlocks()],
    ids=["recompute", "finished blocks"],
)
def test_fast_dllm_v2(cache):
    """Blocks that see no later ones, logits that speak of the next place, sub-blocks from the left."""

    def loop(peer, canvas, start):
        for first in range(start // BLOCK * BLOCK, len(canvas), BLOCK):
            for inner in range(first, first + BLOCK, 4):
                while len(unknown := inner + np.flatnonzero(canvas[inner : inner + 4] == MASK)):
                    logits = peer.logits(canvas)
                    logits = np.concatenate([logits[:1], logits[:-1]])
                    confidence = softmax(logits).max(-1)
                    places = [i for i in unknown if confidence[i] > 0.5] or surest(confidence, unknown, 1)
                    yield filled(canvas, logits.argmax(-1), places)

    strategy = MaskedDiffusion(
        blocks=SubBlocks(length=BLOCK, inner=4), unmask=StrictThreshold(0.5), cache=cache
    )
    steps_of(loop, strategy, 8, block=BLOCK, offset=1)


def test_joint_thresholds():
    """sglang's loop with a penalty; it stops when nothing changes or its edits are spent."""
    edits = 0

    def loop(peer, canvas, start):
        nonlocal edits
        for first in range(start // BLOCK * BLOCK, len(canvas), BLOCK):
            block = np.arange(first, first + BLOCK)
            full = 0
            while True:
                logits = peer.logits(canvas)
                for place in block[1:]:
                    logits[place, canvas[place - 1]] -= 1.0
                proposed, confidence = logits.argmax(-1), softmax(logits).max(-1)
                unknown = block[canvas[block] == MASK]
                changes = [i for i in unknown if confidence[i] > 0.5]
                if len(unknown) and not changes:
                    changes = surest(confidence, unknown, 1)
                full += not len(unknown)
                known = [i for i in block if i >= start and canvas[i] != MASK]
                changed = [i for i in known if confidence[i] > 0.2 and proposed[i] != canvas[i]]
                edits += len(changed)
                yield filled(canvas, proposed, [*changes, *changed])
                # The published loop looks at the block once more when its edits are spent, and keeps it.
                if not len(unknown) and (not changed or full == 3):
                    break

    strategy = MaskedDiffusion(
        blocks=FixedBlocks(BLOCK),
        unmask=StrictThreshold(0.5),
        remask=JointThreshold(threshold=0.2, passes=3, penalty=1.0),
    )
    steps_of(loop, strategy, 8, block=BLOCK)
    assert edits


@pytest.mark.sweep
def test_d3llm():
    """Several blocks at once, all of which see each other, without a cache."""

    def loop(peer, canvas, start):
        begun = 1
        while (canvas == MASK).any():
            full = [1 - (canvas[first : first + 4] == MASK).mean() for first in range(start, len(canvas), 4)]
            begun += begun < len(full) and full[begun - 1] >= 0.5
            p = softmax(logits := peer.logits(canvas))
            entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
            unknown = np.flatnonzero(canvas[: start + 4 * begun] == MASK)
            chosen = {i for i in unknown if entropy[i] <= 0.8} | {min(unknown, key=entropy.__getitem__)}
            for block in range(begun):
                inside = [i for i in unknown if (i - start) // 4 == block]
                if inside and (block == 0 or full[block - 1] >= 0.5):
                    chosen |= set() if chosen & set(inside) else {min(inside, key=entropy.__getitem__)}
                    break
            yield filled(canvas, logits.argmax(-1), sorted(chosen))

    unmask = PipelinedEntropy(inner=4, threshold=0.8)
    for answer in steps_of(loop, MaskedDiffusion(blocks=FixedBlocks(NEW), unmask=unmask), 5, 9):
        assert len(answer) < NEW


def test_insertions_and_deletions():
    """Two tokens of the vocabulary leave places out and make room; blocks keep their length."""
    moved = 0

    def loop(peer, canvas, start):
        nonlocal moved
        for first in range(start // BLOCK * BLOCK, len(canvas), BLOCK):
            block = slice(first, first + BLOCK)
            row = Levenshtein(canvas[block], max(start - first, 0), 0.5, 0.2, 4, mask=MASK)
            while not row.is_done:
                row.step(peer.logits(canvas)[block])
                canvas[block] = row.tokens
                moved += row.original != [True] * BLOCK and first >= start
                yield canvas.copy()

    strategy = MaskedDiffusion(
        blocks=FixedBlocks(BLOCK),
        unmask=StrictThreshold(0.5),
        remask=LevenshteinEdits(**{**TOKENS, "mask_token": MASK}, threshold=0.2, passes=4),
        cache=FinishedBlocks(),
    )
    steps_of(loop, strategy, 8, 16, block=BLOCK)
    assert moved
