"""Speculation is lossless: greedy token for token, sampled by enumeration over every draft and outcome."""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import quick_jit, random_params
from strategy_helpers import (
    MODELS,
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    bigram_draft,
    decode,
    expected,
    nearby,
    ready,
    stop_inside,
)
from transformers.generation import logits_process

from jaxmodels.decoding import BlockVerification, Draft, Sample, Speculative, TokenVerification
from jaxmodels.decoding.processors import BadWords, FrequencyPenalty, MinNewTokens, RepetitionPenalty
from jaxmodels.decoding.strategy import empty_output


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    draft = bigram_draft(plain.tokens, config.vocab_size)
    strategy = Speculative(draft=draft, gamma=3, top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()
    assert len(set(ours.counters["calls"].tolist())) > 1  # rows went on at their own pace
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_a_row_alone_gives_what_it_gives_in_a_batch(name):
    config, params = architecture(name)
    draft = bigram_draft(expected(name).tokens, config.vocab_size)
    ours = decode(config, params, Speculative(draft=draft, gamma=2, top_logprobs=2), PROMPTS[2:3])
    assert_same_generation(ours, expected(name), row=2)


@pytest.mark.parametrize("acceptance", [TokenVerification(), BlockVerification()], ids=str)
def test_the_draft_forgets_what_was_not_accepted(acceptance):
    """Accepted counts are those of drafting anew from the whole text at every step."""
    (config, params), gamma = architecture("hybrid"), 3
    draft = Draft(config, nearby(params, 0.15))
    ours = decode(config, params, Speculative(draft=draft, gamma=gamma, acceptance=acceptance))
    best = quick_jit(lambda weights, tokens: jnp.argmax(config.forward(weights, tokens), axis=-1))
    width = max(map(len, PROMPTS)) + NEW + gamma
    plain = expected("hybrid").tokens
    for b, prompt in enumerate(PROMPTS):
        length, calls, accepted = 1, 0, 0
        while length < NEW:
            guess = [*prompt, *plain[b, :length].tolist()]
            for _ in range(gamma):
                padded = np.zeros((1, width), np.int32)
                padded[0, : len(guess)] = guess
                guess.append(int(best(draft.params, padded)[0, len(guess) - 1]))
            right = guess[len(prompt) + length :] == plain[b, length : length + gamma]
            if right.shape[0] < gamma:
                right = np.asarray(guess[len(prompt) + length :][: NEW - length]) == plain[b, length:NEW]
            n = int(np.cumprod(right).sum())
            accepted, calls, length = accepted + n, calls + 1, length + n + 1
        assert ours.counters["calls"][b] == calls
        assert ours.counters["accepted"][b] == accepted
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()


# --- the whole step, enumerated ----------------------------------------------------------------------

VOCAB, GAMMA = 3, 2
DRAFTS = np.asarray(list(itertools.product(range(VOCAB), repeat=GAMMA)))


@dataclass(frozen=True, eq=False)
class Scripted:
    """Draws `tokens[b, i]` in row b with the i-th of the row's keys, and 0 with any other key."""

    keys: jax.Array
    tokens: jax.Array

    def __call__(self, logits, keys):
        mine = jax.random.key_data(keys)[:, None, :] == self.keys
        return jnp.where(mine.all(-1), self.tokens, 0).sum(1)

    def probabilities(self, logits):
        return jax.nn.softmax(logits, axis=-1)


@dataclass(frozen=True, eq=False)
class Recording:
    """A rule whose distributions are kept aside, and whose outcome is then forced to (count, token)."""

    rule: TokenVerification
    count: jax.Array
    token: jax.Array
    seen: list

    def outcomes(self, target, draft, drafted):
        self.seen.append((draft, drafted, self.rule.outcomes(target, draft, drafted)))
        rows = jnp.arange(drafted.shape[0])
        return jnp.zeros(target.shape).at[rows, self.count, self.token].set(1.0)


PROCESSORS = (RepetitionPenalty(1.5), FrequencyPenalty(0.4), BadWords([[1, 2], [2, 2, 0]]), MinNewTokens(4))


def processed(logits, history, prompt_length):
    """What `PROCESSORS` make of the logits behind a text, by the classes of `transformers`."""
    ids = torch.tensor([history])
    scores = logits_process.RepetitionPenaltyLogitsProcessor(1.5)(ids, torch.tensor(logits)[None])
    scores = scores - 0.4 * torch.bincount(ids[0, prompt_length:], minlength=VOCAB)
    scores = logits_process.NoBadWordsLogitsProcessor([[1, 2], [2, 2, 0]])(ids, scores)
    least = logits_process.MinNewTokensLengthLogitsProcessor(prompt_length, 4, [0])
    return least(ids, scores)[0].numpy()


def conditionals(config, params, history, prompt_length, processors):
    """The model's distribution at each of the last tokens of every continuation: [V^(G+1), G+1, V]."""
    sequences = list(itertools.product(range(VOCAB), repeat=GAMMA + 1))
    rows = [[*history, *sequence] for sequence in sequences]
    logits = np.array(quick_jit(config.forward)(params, jnp.asarray(rows))[:, len(history) - 1 : -1])
    if processors:
        for (row, i), _ in np.ndenumerate(logits[:, :, 0]):
            logits[row, i] = processed(logits[row, i], rows[row][: len(history) + i], prompt_length)
    return sequences, np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)


def tiny(name, seed):
    config = replace(MODELS[name], vocab_size=VOCAB)
    return config, random_params(config.spec(), seed)


@pytest.mark.parametrize(
    ("name", "draft_name", "processors"),
    [("hybrid", "attention", ()), ("attention", "ssd", ()), ("attention", "ssd", PROCESSORS)],
    ids=["hybrid", "attention", "processors"],
)
def test_a_sampled_step_has_the_models_joint_distribution(name, draft_name, processors):
    """Every draft in a row of its own, for three histories that a first step leaves in the same batch.

    The first step keeps 0, 1 or 2 drafted tokens, so that the second one depends on what both caches
    forgot. What the second step emits, weighted by the probability of its draft and continued by the model,
    must be distributed as the model's next tokens are by a full forward.
    """
    (config, params), draft = tiny(name, 0), Draft(*tiny(draft_name, 1))
    kept = np.repeat(np.arange(GAMMA + 1), len(DRAFTS))
    drafts, rows = np.tile(DRAFTS, (GAMMA + 1, 1)), len(kept)
    prompt = [0, 2, 1, 1]
    plain = Speculative(draft=draft, gamma=GAMMA, processors=processors)
    request = ready(config, params, plain, [prompt] * rows, stop=[0] if processors else ()).request
    output = empty_output(rows, NEW, request.pad_token)
    carry = quick_jit(plain.prefill, static_argnums=0)(
        config, params, request, config.init_cache(rows, 32), output
    )

    @quick_jit
    def step(carry, drafts, count, token):
        keys = jax.vmap(jax.random.fold_in)(request.keys, carry.output.lengths)
        by_draft = [jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(GAMMA)]
        script = Scripted(jax.random.key_data(jnp.stack(by_draft, 1)), drafts)
        rule = Recording(TokenVerification(), count, token, [])
        return replace(plain, sampler=script, acceptance=rule).step(config, params, request, carry), rule.seen

    first = int(carry.output.tokens[0, 0])
    carry, _ = step(carry, jnp.full((rows, GAMMA), 2), kept, jnp.ones(rows, jnp.int32))
    assert carry.output.lengths.tolist() == (kept + 2).tolist()
    _, ((proposed, drafted, outcomes),) = jax.device_get(step(carry, drafts, kept, kept))
    np.testing.assert_array_equal(drafted, drafts)

    for n_before in range(GAMMA + 1):
        group = np.flatnonzero(kept == n_before)
        history = [*prompt, *np.asarray(carry.output.tokens)[group[0], : n_before + 2].tolist()]
        assert history[len(prompt) :] == [first, *[2] * n_before, 1]
        sequences, p = conditionals(config, params, history, len(prompt), processors)
        q = conditionals(draft.config, draft.params, history, len(prompt), processors)[1]
        for sequence, by_position, draft_by_position in zip(sequences, p, q, strict=True):
            chances = by_position[np.arange(GAMMA + 1), sequence]
            joint = 0.0
            for b in group:
                weight = np.prod(proposed[b, np.arange(GAMMA), drafts[b]])
                for n in range(GAMMA + 1):
                    if (*drafts[b, :n], sequence[n]) == sequence[: n + 1]:
                        joint += weight * outcomes[b, n, sequence[n]] * np.prod(chances[n + 1 :])
                if sequence[:GAMMA] == tuple(drafts[b]):
                    np.testing.assert_allclose(proposed[b], draft_by_position[:GAMMA], atol=1e-6)
            assert abs(joint - np.prod(chances)) < 1e-6, (n_before, sequence)


def test_samples_do_not_depend_on_their_neighbours_and_follow_the_seed():
    config, params = architecture("attention")
    draft = bigram_draft(expected("attention").tokens, config.vocab_size)
    strategy = Speculative(draft=draft, gamma=3, sampler=Sample(temperature=0.8, top_k=9))
    together = decode(config, params, strategy, seed=1)
    shuffled = decode(config, params, strategy, [PROMPTS[0], *reversed(PROMPTS[1:])], seed=1)
    other = decode(config, params, strategy, seed=2)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])
    assert (together.tokens != other.tokens).any()
    assert together.counters["accepted"].sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0}, "gamma must be a whole number >= 1 .*, got 0"),
        ({"top_logprobs": -1}, "top_logprobs .* got -1"),
        ({"prefill_window": 0}, "prefill_window must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Speculative(draft=Draft(*architecture("ssd")), **arguments)


def test_a_draft_of_another_vocabulary_is_refused():
    strategy = Speculative(draft=Draft(*tiny("ssd", 0)))
    with pytest.raises(ValueError, match="vocabulary has 3 tokens and the model's 29"):
        decode(*architecture("ssd"), strategy)
