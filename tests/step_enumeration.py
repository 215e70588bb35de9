"""One sampled step of `Speculative`, enumerated: over all drafts and outcomes it is the model's distribution.

Every draft is in a row of its own. A first step leaves the rows with different histories, so that the second
one, which is enumerated, depends on what the caches forgot.
"""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import torch
from model_helpers import quick_jit, random_params
from strategy_helpers import MODELS, NEW, ready
from transformers.generation import logits_process

from jaxmodels.decoding import TokenVerification
from jaxmodels.decoding.draft_windows import fold_keys
from jaxmodels.decoding.processors import BadWords, FrequencyPenalty, MinNewTokens, RepetitionPenalty
from jaxmodels.decoding.strategy import empty_output

VOCAB = 3
PROMPT = [0, 2, 1, 1]


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
    """A rule whose distributions are put into `seen`, and whose outcome is then forced to (node, token).

    They come by a callback, since a step may verify inside a loop.
    """

    rule: TokenVerification
    node: jax.Array
    token: jax.Array
    seen: list

    def outcomes(self, target, draft, drafted, tree=None):
        paths = None if tree is None else tree.paths()
        found = draft, drafted, self.rule.outcomes(target, draft, drafted, tree), paths
        jax.debug.callback(lambda *values: self.seen.append(jax.device_get(values)), *found)
        rows = jnp.arange(drafted.shape[0])
        return jnp.zeros(target.shape).at[rows, self.node, self.token].set(1.0)


PROCESSORS = (RepetitionPenalty(1.5), FrequencyPenalty(0.4), BadWords([[1, 2], [2, 2, 0]]), MinNewTokens(4))


def processed(logits, history, prompt_length):
    """What `PROCESSORS` make of the logits behind a text, by the classes of `transformers`."""
    ids = torch.tensor([history])
    scores = logits_process.RepetitionPenaltyLogitsProcessor(1.5)(ids, torch.tensor(logits)[None])
    scores = scores - 0.4 * torch.bincount(ids[0, prompt_length:], minlength=VOCAB)
    scores = logits_process.NoBadWordsLogitsProcessor([[1, 2], [2, 2, 0]])(ids, scores)
    least = logits_process.MinNewTokensLengthLogitsProcessor(prompt_length, 4, [0])
    return least(ids, scores)[0].numpy()


def conditionals(config, params, history, size, processors):
    """The model's distribution at each of the last `size` tokens of every continuation: [V^size, size, V]."""
    sequences = list(itertools.product(range(VOCAB), repeat=size))
    rows = [[*history, *sequence] for sequence in sequences]
    logits = np.array(quick_jit(config.forward)(params, jnp.asarray(rows))[:, len(history) - 1 : -1])
    if processors:
        for (row, i), _ in np.ndenumerate(logits[:, :, 0]):
            logits[row, i] = processed(logits[row, i], rows[row][: len(history) + i], len(PROMPT))
    return sequences, np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)


def tiny(name, seed):
    config = replace(MODELS[name], vocab_size=VOCAB)
    return config, random_params(config.spec(), seed)


def assert_exact_step(config, params, strategy, *, levels, kept):
    """What a second step emits is distributed as the model's next tokens are by a full forward.

    Args:
        levels: tokens that the drafter draws one after another; 0 where nothing is left to chance.
        kept: the window tokens to which the first step accepts its draft, each for some of the rows.
    """
    every = np.asarray(list(itertools.product(range(VOCAB), repeat=levels)), np.int32)
    node = np.repeat(kept, len(every))
    drafts, rows = np.tile(every, (len(kept), 1)), len(node)
    stop = [0] if strategy.processors else ()
    request = ready(config, params, strategy, [PROMPT] * rows, stop=stop).request
    output = empty_output(rows, NEW, request.pad_token)
    carry = quick_jit(strategy.prefill, static_argnums=0)(
        config, params, request, config.init_cache(rows, 32), output
    )
    first, seen = np.asarray(carry.output.tokens[:, 0]), []

    @quick_jit
    def run(carry, drafts, node, token):
        keys = jax.vmap(jax.random.fold_in)(request.keys, carry.output.lengths)
        by_draft = [fold_keys(keys, i) for i in range(max(levels, 1))]
        script = Scripted(jax.random.key_data(jnp.stack(by_draft, 1)), drafts)
        rule = Recording(strategy.acceptance, node, token, seen)
        return replace(strategy, sampler=script, acceptance=rule).step(config, params, request, carry)

    def step(*given):
        carry = jax.device_get(run(*given))
        jax.effects_barrier()
        return carry, seen.pop()

    script = drafts if levels else np.zeros((rows, 1), np.int32)
    carry, (_, drafted, _, paths) = step(carry, jnp.full_like(script, 2), node, jnp.ones(rows, jnp.int32))
    said = carry.output.tokens, carry.output.lengths
    histories = [[*PROMPT, *row[:length].tolist()] for row, length in zip(*said, strict=True)]
    for b in range(rows):
        accepted = [int(drafted[b, n - 1]) for n in path_of(paths, b, node[b])]
        assert histories[b] == [*PROMPT, int(first[b]), *accepted, 1]
    _, (proposed, drafted, outcomes, paths) = step(carry, script, node * 0, node * 0)

    for group in (np.flatnonzero(node == n) for n in kept):
        some = (None if a is None else a[group] for a in (proposed, drafted, outcomes, paths))
        _assert_joint(config, params, strategy, histories[group[0]], *some)


def path_of(paths, row, node):
    """The window indices of the drafted tokens from the first one to `node`."""
    if paths is None:
        return list(range(1, node + 1))
    path = paths[row, node].tolist()
    return path[1 : path.index(node) + 1]


def _assert_joint(config, params, strategy, history, proposed, drafted, outcomes, paths):
    """Behind one history, with a row for each draft."""
    nodes = range(drafted.shape[1] + 1)
    size = 1 + max(len(path_of(paths, 0, n)) for n in nodes)
    sequences, p = conditionals(config, params, history, size, strategy.processors)
    emitted, counted = {}, set()
    for b in range(len(drafted)):
        there = tuple(drafted[b][proposed[b].any(-1)].tolist())
        if there in counted:  # drafts that ended early differ in tokens that were not drafted
            continue
        counted.add(there)
        drawn = np.take_along_axis(proposed[b], drafted[b][:, None], axis=1)[:, 0]
        weight = np.prod(np.where(proposed[b].any(-1), drawn, 1.0))
        for n, token in itertools.product(nodes, range(VOCAB)):
            said = (*(int(drafted[b, m - 1]) for m in path_of(paths, b, n)), token)
            emitted[said] = emitted.get(said, 0.0) + weight * outcomes[b, n, token]
    np.testing.assert_allclose(sum(emitted.values()), 1.0, atol=1e-5)
    for sequence, by_position in zip(sequences, p, strict=True):
        chances = by_position[np.arange(size), sequence]
        joint = sum(emitted.get(sequence[:n], 0.0) * np.prod(chances[n:]) for n in range(1, size + 1))
        assert abs(joint - np.prod(chances)) < 1e-6, (history, sequence)
