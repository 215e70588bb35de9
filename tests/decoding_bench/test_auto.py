"""The strategy that a trial chooses."""

import numpy as np
import pytest
from strategy_helpers import architecture

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Sample
from jaxmodels.decoding_bench import auto, measure


@pytest.fixture(scope="module")
def model():
    config, params = architecture("attention")
    return jm.Model(config=config, params=params)


def test_the_fastest_that_keeps_the_text_is_chosen(model, monkeypatch):
    seen = []

    def sit(model, contestants, exam):
        seen.append((contestants, exam))
        speeds = {"autoregressive": 1.0, "prompt lookup, 8": 1.7, "Jacobi, 4": 1.2}
        for one in contestants:
            speed = speeds.get(one.name, 0.5)
            yield measure.Trial(
                name=one.name, keeps_text=one.keeps_text, tokens_per_second=speed, speed=speed,
                tokens_per_call=1.0, accepted_at=(),
            )  # fmt: skip

    monkeypatch.setattr(auto, "sit", sit)
    base = Autoregressive(top_logprobs=2)
    choice = auto.choose(model, np.asarray([[3, 1, 4]]), base, max_new_tokens=1000)
    ((contestants, exam),) = seen
    assert all(one.keeps_text for one in contestants)
    assert exam.new == auto.TRIED_TOKENS and exam.prompts.tolist() == [[3, 1, 4]]
    assert choice.contestant.name == "prompt lookup, 8"
    assert choice.contestant.strategy.top_logprobs == 2
    assert len(choice.trials) == len(contestants)


@pytest.mark.sweep
def test_what_is_chosen_draws_as_asked(model):
    prompt, base = np.asarray([[3, 1, 4, 1, 3, 1]]), Autoregressive(sampler=Sample(temperature=0.5))
    choice = auto.choose(model, prompt, base, max_new_tokens=4)
    assert choice.contestant.strategy.sampler == base.sampler
    out = model.generate(prompt, 4, choice.contestant.strategy, stop_tokens=[])
    assert out.tokens.shape == (1, 4)


def test_several_prompts_are_refused(model):
    with pytest.raises(ValueError, match="choose tries one prompt, got 2"):
        auto.choose(model, np.asarray([[3, 1], [4, 1]]), Autoregressive())
