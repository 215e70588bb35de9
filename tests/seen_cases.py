"""Views of steps of masked generation with random logits, and their rows in NumPy for rules written out."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.decoding.masked.seen import Seen

LENGTH, VOCAB, ROWS = 12, 17, 120
MASK = VOCAB - 1
SEEDS = range(2)


choose = jax.jit(lambda rule, seen: rule(seen))
remember = jax.jit(lambda rule, seen: rule.fuse(seen))
edit = jax.jit(lambda rule, seen, tokens: rule(seen, tokens))


def softmax(logits):
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def seen_case(seed, *, temperature=None, length=LENGTH, logits=None, **fields):
    """A `Seen` of ROWS rows: the first has no unknown place, the second nothing else, the third one only.

    The places of a row differ in how sure the logits are. With a temperature, tokens are drawn; else they
    are the most probable ones. `fields` replace what is drawn.
    """
    rng = np.random.default_rng(seed)
    masked = rng.random((ROWS, length)) < rng.uniform(0.2, 0.9, (ROWS, 1))
    masked[0], masked[1], masked[2] = False, True, np.arange(length) == rng.integers(length)
    masked = np.asarray(fields.get("masked", masked))
    if logits is None:
        logits = rng.standard_normal((*masked.shape, VOCAB)) * np.exp(rng.uniform(-1, 2, (*masked.shape, 1)))
    logits = np.array(logits, np.float32)
    logits[..., MASK] = -np.inf
    distribution = softmax(logits if temperature is None else logits / temperature)
    proposed = logits.argmax(-1)
    if temperature is not None:
        noise = rng.gumbel(size=logits.shape)
        proposed = (logits / temperature + noise).argmax(-1)
    rows = masked.shape[0]
    steps = rng.integers(1, length + 1, rows)
    drawn = {
        "tokens": np.where(masked, MASK, rng.integers(0, MASK, masked.shape)),
        "masked": masked,
        "editable": ~masked & (rng.random(masked.shape) < 0.8),
        "positions": np.tile(np.arange(length) + 3, (rows, 1)),
        "logits": logits,
        "proposed": proposed,
        "probability": np.take_along_axis(softmax(logits), proposed[..., None], 2)[..., 0],
        "distribution": distribution,
        "step": (rng.random(rows) * steps).astype(int),
        "steps": steps,
        "initial": np.maximum(masked.sum(1), rng.integers(1, length + 1, rows)),
        "idle": np.zeros(rows, int),
        **fields,
    }
    arrays = {
        name: jnp.asarray(value, jnp.float32 if np.asarray(value).dtype.kind == "f" else None)
        for name, value in drawn.items()
        if name != "memory"
    }
    keys = jax.random.split(jax.random.key(seed), rows)
    return Seen(**arrays, keys=keys, memory=fields.get("memory"))


def rows_of(seen):
    """Each row, with `p` the softmax of the logits in double precision and `c` that of the proposed token."""
    for b in range(seen.masked.shape[0]):
        row = {
            name: np.asarray(value[b])
            for name, value in vars(seen).items()
            if name not in ("keys", "memory") and value is not None
        }
        p = softmax(row["logits"])
        yield SimpleNamespace(
            **row, p=p, c=p[np.arange(len(p)), row["proposed"]], unknown=np.flatnonzero(row["masked"])
        )


def agrees(rule, by_hand, **options):
    """Asserts that a rule chooses what `by_hand(row)`, the places of a row, does; how many places it chose in
    each row of each case."""
    counts = []
    for seed in SEEDS:
        seen = seen_case(seed, **options)
        chosen = np.asarray(choose(rule, seen))
        for b, row in enumerate(rows_of(seen)):
            expected = sorted(int(place) for place in by_hand(row)) if row.masked.any() else []
            assert np.flatnonzero(chosen[b]).tolist() == expected, (seed, b)
            counts.append(len(expected))
    return counts


def highest(values, unknown, count):
    """The `count` unknown places with the highest values."""
    return sorted(unknown, key=lambda place: -values[place])[:count]
