"""Early exit with blocks that are filled in parallel, against whole sequences read without a cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from strategy_helpers import (
    NEW,
    PROMPTS,
    TWO_IN_EVERY_RUN,
    architecture,
    assert_same_generation,
    decode,
    expected,
    stop_inside,
)

from jaxmodels.decoding import Autoregressive, ParallelFilling
from jaxmodels.decoding.processors import RepetitionPenalty

ROOM = max(map(len, PROMPTS)) + NEW
NEVER = ParallelFilling(layers=1, threshold=1.5, size=3, top_logprobs=2)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", TWO_IN_EVERY_RUN)
def test_a_threshold_that_is_never_reached_equals_autoregressive_decoding(name):
    ours = decode(*architecture(name), NEVER)
    assert_same_generation(ours, expected(name))


@pytest.mark.sweep
def test_so_it_does_for_a_row_alone_and_with_a_stop_token_inside_a_round():
    config, params = architecture("hybrid")
    assert_same_generation(decode(config, params, NEVER, PROMPTS[2:3]), expected("hybrid"), row=2)
    stop = (stop_inside(expected("hybrid").tokens),)
    assert_same_generation(decode(config, params, NEVER, stop=stop), expected("hybrid", stop=stop))


class Reference:
    """Whole sequences through the first blocks, and through all, again for every token."""

    def __init__(self, name, layers):
        config, params = architecture(name)
        first = dataclasses.replace(config, blocks=config.blocks[:layers])
        self.models = [quick_jit(lambda t, c=c: c.forward(params, t)[0]) for c in (first, config)]

    def say(self, text, full):
        """The distribution of what follows a text."""
        padded = jnp.asarray([text + [0] * (ROOM - len(text))])
        return np.asarray(jax.nn.softmax(self.models[full](padded)[len(text) - 1]))

    def decode(self, prompt, threshold, size):
        text, exits = [*prompt], 0
        text.append(int(self.say(text, True).argmax()))
        while len(text) < len(prompt) + NEW:
            for _ in range(size):
                early = self.say(text, False)
                if early.max() < threshold:
                    break
                text.append(int(early.argmax()))
                exits += 1
            else:
                early = None
            late = int(self.say(text, True).argmax())
            text.append(late)
            if early is not None and late == early.argmax():  # the unsure token was read in the window
                text.append(int(self.say(text, True).argmax()))
        return text[: len(prompt) + NEW], exits


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["hybrid", "attention", "delta"])
def test_tokens_leave_where_the_exit_is_sure_and_all_others_are_the_full_models(name):
    """Log-probabilities, which are those behind the last block, show that no history is approximate."""
    (config, params), threshold = architecture(name), 0.1
    ours = decode(config, params, ParallelFilling(layers=1, threshold=threshold, size=3, top_logprobs=0))
    reference, exits = Reference(name, 1), 0
    for row, prompt in enumerate(PROMPTS):
        text, left = reference.decode(prompt, threshold, 3)
        exits += left
        assert ours.tokens[row, :NEW].tolist() == text[len(prompt) :]
        sure = [reference.say(text[:i], True)[text[i]] for i in range(len(prompt), len(text))]
        np.testing.assert_allclose(ours.log_probs.chosen[row, :NEW], np.log(sure), atol=1e-3)
    assert 0 < exits < len(PROMPTS) * NEW
    assert not np.array_equal(ours.tokens, expected(name).tokens)


@pytest.mark.sweep
def test_processors_see_the_round_so_far():
    config, params = architecture("attention")
    rules = (RepetitionPenalty(1.3),)
    plain = decode(config, params, Autoregressive(processors=rules))
    ours = decode(config, params, dataclasses.replace(NEVER, processors=rules, top_logprobs=None))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be a whole number >= 1"),
        ({"layers": 1, "size": 0}, "size must be a whole number >= 1"),
        ({"layers": 1, "threshold": -1.0}, "threshold must be a finite number >= 0"),
    ],
)
def test_values_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ParallelFilling(**options)


def test_an_exit_behind_the_last_block_is_refused():
    with pytest.raises(ValueError, match=r"layers=3\) must have fewer than the model's 3 blocks"):
        decode(*architecture("hybrid"), ParallelFilling(layers=3))
