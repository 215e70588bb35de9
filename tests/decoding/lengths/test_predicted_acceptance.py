"""Drafts end where a head expects a rejection, as SpecDec++ counts, and the text stays as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, quick_jit, random_params
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    architecture,
    assert_same_generation,
    decode,
    expected,
    nearby,
    ready,
    stop_inside,
)

from jaxmodels.decoding import (
    Draft,
    FirstLayers,
    Greedy,
    MirrorDrafter,
    ModelDrafter,
    PromptLookup,
    Speculative,
    TreeDrafter,
)
from jaxmodels.decoding.drafters import Round
from jaxmodels.decoding.lengths import Budget, PredictedAcceptance
from jaxmodels.decoding.strategy import empty_output, row_keys
from jaxmodels.models.draft_heads.acceptance import AcceptanceHead

HEAD = AcceptanceHead(d_model=D_MODEL)
PARAMS = random_params(HEAD.spec())
PARAMS["output"]["bias"] = jnp.asarray([0.0, 2.0])
SIZE = 6


def length(**fields):
    """With a head of random weights that mostly expects an acceptance."""
    return PredictedAcceptance(**{"head": HEAD, "params": PARAMS, **fields})


def chance_by_hand(hidden):
    """P(accepted) at hidden states, in NumPy."""
    layer, output = (
        jax.tree.map(lambda a: np.asarray(a, np.float64), PARAMS[k]) for k in ("layer", "output")
    )
    x = np.asarray(hidden, np.float64)
    for _ in range(3):
        y = x @ layer["weight"].T + layer["bias"]
        x = x + y / (1 + np.exp(-y))
    rejected, accepted = np.moveaxis(x @ output["weight"].T + output["bias"], -1, 0)
    return 1 / (1 + np.exp(rejected - accepted))


def counts_by_hand(chances, threshold, least, most):
    """How many tokens each row drafts: token i is the last where those before it are likely not all right."""
    counts = []
    for row in chances:
        all_right, count = 1.0, 1
        while count < min(most, len(row)) and not (count >= least and 1 - all_right > threshold):
            all_right *= row[count - 1]
            count += 1
        counts.append(count)
    return counts


@functools.cache
def proposing():
    """``propose(length)``: what a drafter proposes in six rows, and the texts in front."""
    config, params = architecture("attention")
    drafter = ModelDrafter(draft=Draft(config, nearby(params, 0.2)), size=SIZE)
    text = np.random.default_rng(0).integers(0, 29, (6, 6))
    request = ready(config, params, Speculative(draft=drafter), text[:, :5].tolist()).request
    output = empty_output(6, 16, request.pad_token)

    @quick_jit
    def propose(length):
        state = length.begin(6)
        around = Round(
            config=config,
            params=params,
            request=request,
            output=output,
            token=jnp.asarray(text[:, 5]),
            sampler=Greedy(),
            processors=(),
            keys=row_keys(request, output.lengths),
            prefill_window=16,
            limit=length.limit(state, SIZE),
            stop=functools.partial(length.stop, state),
            judge=length.judge,
        )
        return drafter.propose(drafter.begin(around, {}), around)[0]

    return propose, drafter.draft, text


def test_drafts_end_where_the_head_expects_a_rejection():
    propose, draft, text = proposing()
    whole = propose(length(threshold=1.0))
    assert whole.count.tolist() == [SIZE] * 6
    texts = jnp.concatenate([jnp.asarray(text), whole.tokens], axis=1)
    hidden = quick_jit(draft.config.forward_scored)(draft.params, texts).hidden
    chances = chance_by_hand(hidden[:, 6:])
    seen = set()
    for threshold, least, most in ((0.2, 1, 20), (0.6, 1, 20), (0.2, 3, 20), (0.6, 1, 4), (0.0, 2, 20)):
        risks = 1 - np.cumprod(chances, axis=1)
        assert np.abs(risks - threshold).min() > 1e-4
        counts = propose(length(threshold=threshold, least=least, most=most)).count.tolist()
        assert counts == counts_by_hand(chances, threshold, least, most)
        seen |= {*counts}
    # The head has read no token yet where the second is drafted.
    assert seen == {2, 3, 4}
    assert propose._cache_size() == 1


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    drafter = ModelDrafter(draft=Draft(config, nearby(params, 0.1)), size=4)
    strategy = Speculative(draft=drafter, length=length(threshold=0.3, least=1), top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert 1 < ours.counters["drafted"].sum() / ours.counters["calls"].sum() < 4
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_the_first_layers_show_their_hidden_states_too():
    config, params = architecture("attention")
    strategy = Speculative(draft=FirstLayers(layers=1, size=4), length=length(threshold=0.3), top_logprobs=2)
    assert_same_generation(decode(config, params, strategy), expected("attention"))


@pytest.mark.sweep
@pytest.mark.parametrize("processors", [(), PROCESSORS], ids=["plain", "processors"])
def test_a_sampled_step_has_the_models_joint_distribution(processors):
    """Some of the enumerated drafts end behind their second token, some do not."""
    drafter = ModelDrafter(draft=Draft(*tiny("attention", 1)), size=3)
    strategy = Speculative(draft=drafter, length=length(threshold=0.3, least=1), processors=processors)
    assert_exact_step(*tiny("attention", 0), strategy, levels=3, kept=[0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold must be a finite number >= 0 and <= 1, got 1.5"),
        ({"least": 0}, "least must be a whole number >= 1 .*, got 0"),
        ({"least": 5, "most": 4}, "least=5 must not exceed most=4"),
        ({"params": {"output": PARAMS["output"]}}, r"lack \['layer/weight', 'layer/bias'\]"),
    ],
)
def test_values_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        length(**arguments)


DRAFT = Draft(*architecture("ssd"))


@pytest.mark.parametrize(
    "drafter",
    [PromptLookup(), MirrorDrafter(draft=DRAFT, layers=1), TreeDrafter(draft=DRAFT, siblings=(2, 1))],
    ids=["lookup", "mirror", "tree"],
)
@pytest.mark.parametrize("within", [False, True], ids=["alone", "within_a_budget"])
def test_drafters_without_hidden_states_are_refused(drafter, within):
    policy = Budget(tokens=3, within=length()) if within else length()
    names = rf"length={type(policy).__name__}\(...\) .*draft={type(drafter).__name__}\("
    with pytest.raises(ValueError, match=names):
        Speculative(draft=drafter, length=policy)


@pytest.mark.sweep
def test_a_budget_keeps_the_judgement_within_it():
    config, params = architecture("attention")
    drafter = ModelDrafter(draft=Draft(config, nearby(params, 0.1)), size=4)
    policy = Budget(tokens=6, within=length(threshold=0.3, least=1))
    ours = decode(config, params, Speculative(draft=drafter, length=policy, top_logprobs=2))
    assert_same_generation(ours, expected("attention"))


def test_a_head_for_another_draft_is_refused():
    head = AcceptanceHead(d_model=24, layers=1)
    policy = PredictedAcceptance(head=head, params=random_params(head.spec()))
    with pytest.raises(ValueError, match="reads hidden states of width 24, and those of the draft have 16"):
        decode(*architecture("ssd"), Speculative(draft=DRAFT, length=policy))
