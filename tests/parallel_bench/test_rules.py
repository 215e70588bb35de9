"""Rules of unmasking with their knobs: from careful to fast."""

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.decoding.masked.seen import Remembering, Seen
from jaxmodels.parallel_bench.rules import RULES, check_rules

PLACES, VOCAB = 8, 16


def first_step(rule, value):
    """How many places are filled in of a block with one known place, the others more and more certain."""
    sharpness = jnp.linspace(0, 6, PLACES)
    logits = (jax.random.normal(jax.random.key(0), (PLACES, VOCAB)) * sharpness[:, None])[None]
    distribution = jax.nn.softmax(logits)
    zero, count = jnp.zeros(1, jnp.int32), jnp.full(1, PLACES, jnp.int32)
    steps = rule.steps(value, PLACES)
    seen = Seen(
        tokens=jnp.zeros((1, PLACES), jnp.int32),
        masked=(jnp.arange(PLACES) != 4)[None],
        editable=jnp.zeros((1, PLACES), bool),
        positions=jnp.arange(PLACES)[None],
        logits=logits,
        proposed=logits.argmax(-1),
        probability=distribution.max(-1),
        distribution=distribution,
        step=zero,
        steps=count if steps is None else jnp.full(1, steps),
        initial=count,
        idle=zero,
        keys=jax.random.split(jax.random.key(1), 1),
    )
    unmask = rule.build(value)
    if isinstance(unmask, Remembering):
        seen = seen.replace(memory=unmask.begin(1, PLACES, VOCAB))
        _, memory = unmask.fuse(seen)
        seen = seen.replace(memory=memory)
    return int(unmask(seen).sum())


@pytest.mark.parametrize("name", RULES)
def test_values_of_the_knob_go_from_careful_to_fast(name):
    rule = RULES[name]
    counts = [first_step(rule, value) for value in rule.values]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] <= PLACES


def test_the_plan_of_so_many_places_per_call():
    rule = RULES["confidence"]
    assert [rule.steps(value, 10) for value in rule.values] == [10, 5, 4, 3, 2, 1]
    assert RULES["threshold"].steps(0.9, 10) is None


def test_an_unknown_rule_is_told():
    with pytest.raises(ValueError, match="no rule 'thresholds'; there are confidence, margin"):
        check_rules(["threshold", "thresholds"])
