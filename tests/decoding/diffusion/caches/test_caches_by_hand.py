"""Caches against the published rules, in plain Python on the same canvases."""

import numpy as np
import pytest
from model_helpers import quick_jit
from step_caches import by_hand, canvases, embedded, finished, full, plan_at, run, through, tiny

from jaxmodels.decoding.diffusion.caches.dbcache import DBCache
from jaxmodels.decoding.diffusion.caches.encoder_sharing import EncoderSharing
from jaxmodels.decoding.diffusion.caches.fora import FORA
from jaxmodels.decoding.diffusion.caches.harmonica import HarmoniCa
from jaxmodels.decoding.diffusion.caches.pab import PAB
from jaxmodels.decoding.diffusion.caches.teacache import TeaCache

STEPS = 9
PLAN = plan_at(np.linspace(950, 50, STEPS))
DIT = {"depth": 4}


class Model:
    """A tiny model of a family, and a run of canvases."""

    def __init__(self, name, **changes):
        self.config, self.params, self.condition = tiny(name, **changes)
        self.given = (self.config, self.params, canvases(STEPS), PLAN, self.condition)

    def ours(self, cache):
        config, params, *rest = self.given
        return run(cache, config, params, *rest)[:2]

    def by_hand(self, rule):
        return by_hand(*self.given, rule)


@pytest.fixture(scope="module")
def dit():
    return Model("DiT", **DIT)


class Kept:
    """Parts that `leaves_out` names are given as they were last computed."""

    def __init__(self):
        self.outputs, self.leaves_out = {}, lambda name: False

    def predict(self, step):
        given = {name: output for name, output in self.outputs.items() if self.leaves_out(name)}
        prediction, self.outputs = predicted_with(step, given)
        return prediction


@quick_jit
def predicted_with(step, given):
    """(the prediction with the outputs of these parts, the outputs of all)"""
    outputs = {}

    def hook(name, compute):
        outputs[name] = given[name] if name in given else compute()
        return outputs[name]

    streams = step.run(step.embed(), range(step.denoiser.num_blocks), hook)
    return step.finish(streams), outputs


def assert_close(ours, wanted):
    assert np.abs(ours - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("interval", [2, 3])
def test_fora(dit, interval):
    kept, computed = Kept(), []

    def rule(i, step):
        index = STEPS - 1 - i  # the published code counts down
        fresh = index == STEPS - 1 or index % interval == 0
        kept.leaves_out = lambda name: not fresh
        computed.append(4.0 * fresh)
        return kept.predict(step)

    wanted = dit.by_hand(rule)
    found, blocks = dit.ours(FORA(interval))
    assert_close(found, wanted)
    assert blocks.tolist() == computed


def test_fora_of_feed_forwards_alone(dit):
    kept = Kept()

    def rule(i, step):
        kept.leaves_out = lambda name: name.endswith("ffn") and i % 2 == 1
        return kept.predict(step)

    found, blocks = dit.ours(FORA(2, parts=("ffn",)))  # of 9 steps the even ones are computed
    assert_close(found, dit.by_hand(rule))
    assert blocks.tolist() == [4, 2, 4, 2, 4, 2, 4, 2, 4]


@pytest.mark.sweep
def test_harmonica(dit):
    router = np.random.default_rng(0).normal(size=(STEPS, 8))
    kept, computed = Kept(), []

    def rule(i, step):
        names = dit.config.module_names()
        on = {name: i == 0 or 1 / (1 + np.exp(-router[i, j])) > 0.4 for j, name in enumerate(names)}
        kept.leaves_out = lambda name: not on[name]
        computed.append(sum(on.values()) / 2)
        return kept.predict(step)

    wanted = dit.by_hand(rule)
    found, blocks = dit.ours(HarmoniCa(router, threshold=0.4))
    assert_close(found, wanted)
    assert blocks.tolist() == computed


def test_pab_of_cross_attention():
    pixart, kept = Model("PixArtTransformer2DModel"), Kept()

    def rule(i, step):
        every = {"mixer": 2, "cross": 3, "ffn": 1}
        kept.leaves_out = lambda name: 100 < PLAN.times[i] < 800 and i % every[name.split("/")[-1]] != 0
        return kept.predict(step)

    assert_close(pixart.ours(PAB(mixer=2, cross=3))[0], pixart.by_hand(rule))


def change(now, before):
    return float(abs(now - before).mean() / abs(before).mean())


@pytest.mark.parametrize(("first", "last", "most"), [(1, 0, None), (2, 1, None), (1, 1, 1)])
def test_dbcache(dit, first, last, most):
    threshold, warmup, kept, computed = 0.5, 2, {"in a row": 0}, []

    def rule(i, step):
        before = embedded(step)
        front = through(step, before, range(first))
        signal = np.asarray(front.hidden) - np.asarray(before.hidden)
        fresh = i < warmup or kept["in a row"] == most or change(signal, kept["signal"]) >= threshold
        if fresh:
            middle = through(step, front, range(first, 4 - last))
            kept.update(
                {
                    "signal": signal,
                    "added": np.asarray(middle.hidden) - np.asarray(front.hidden),
                    "in a row": 0,
                }
            )
        else:
            middle = front.replace(hidden=np.asarray(front.hidden) + kept["added"])
            kept["in a row"] += 1
        computed.append(4.0 if fresh else first + last)
        return finished(step, through(step, middle, range(4 - last, 4)))

    wanted = dit.by_hand(rule)
    found, blocks = dit.ours(DBCache(first, last, threshold, warmup, most))
    assert_close(found, wanted)
    assert blocks.tolist() == computed and len(set(computed)) == 2


def test_teacache(dit):
    coefficients, kept, computed = (0.3, 1.1, 0.02), {"sum": 0.0}, []

    def rule(i, step):
        before = embedded(step)
        front = through(step, before, range(1))
        signal = np.asarray(front.hidden) - np.asarray(before.hidden)
        if i:
            kept["sum"] += np.polyval(coefficients, change(signal, kept["signal"]))
        kept["signal"] = signal
        fresh = i in (0, STEPS - 1) or kept["sum"] >= 1.0
        if fresh:
            after = through(step, front, range(1, 4))
            kept.update({"added": np.asarray(after.hidden) - np.asarray(front.hidden), "sum": 0.0})
        else:
            after = front.replace(hidden=np.asarray(front.hidden) + kept["added"])
        computed.append(4.0 if fresh else 1.0)
        return finished(step, after)

    wanted = dit.by_hand(rule)
    found, blocks = dit.ours(TeaCache(1.0, coefficients))
    assert_close(found, wanted)
    assert blocks.tolist() == computed and len(set(computed)) == 2


@pytest.mark.sweep
def test_a_shared_encoder_keeps_its_time():
    ddt, mask, kept = Model("DDT"), [1, 0, 0, 1, 0, 1, 0, 0, 0], Kept()

    def rule(i, step):
        kept.leaves_out = lambda name: name == "encoder" and not mask[i]
        return kept.predict(step)

    found, blocks = ddt.ours(EncoderSharing(mask))
    assert_close(found, ddt.by_hand(rule))
    encoder, every = ddt.config.num_encoder_blocks, ddt.config.num_blocks
    assert blocks.tolist() == [every - encoder * (not fresh) for fresh in mask]
    assert np.abs(found - full(*ddt.given)).max() > 1e-3
