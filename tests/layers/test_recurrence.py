import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params
from recurrent_mixers import MIXERS, OF_EACH_KIND, REPLAYED, commit, draw, peek

from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, WindowInputs, chain, settle
from jaxmodels.layers.spec import init_state


@pytest.mark.parametrize(
    ("n", "path", "expected"),
    [
        (None, [[0, 1, 2, 3], [0, 1, 2, 3]], [[4, 5], [10, 11]]),
        ([0, 3], None, [[0, 1], [9, 10]]),
        (None, [[0, 3], [1, 2]], [[2, 5], [9, 10]]),
        ([1, 0], [[0, 3], [1, 2]], [[1, 2], [6, 7]]),
    ],
)
def test_what_a_convolution_keeps_of_a_window(n, path, expected):
    both = jnp.arange(12.0).reshape(2, 6, 1)  # two of the history, four of the window
    before = RecurrentState(None, conv=both[:, :2])
    pending = RecurrentPending(before, before, WindowInputs((), conv=both[:, 2:]))
    n, path = (None if a is None else jnp.asarray(a) for a in (n, path))
    np.testing.assert_array_equal(settle(pending, None, n, path).conv[..., 0], expected)


@pytest.mark.parametrize("name", [name for name in OF_EACH_KIND if name not in REPLAYED])
def test_tokens_shown_one_by_one_are_settled_together(name):
    mixer, size = MIXERS[name], 4
    params, x = random_params(mixer.spec()), draw(6, 3 + size)
    _, pending = peek(mixer, params, x[:, :3], init_state(mixer, 6, 99, jnp.float32), 0)
    before = commit(mixer, pending)

    @functools.partial(quick_jit, static_argnums=0)
    def one_by_one(mixer, params, before, x):
        def step(carried, token):
            state, at = carried
            _, pending = peek.__wrapped__(mixer, params, token, state, at)
            return (mixer.commit(pending), at + 1), pending

        steps = jnp.moveaxis(x[:, :, None], 1, 0)
        (settled, _), pendings = jax.lax.scan(step, (before, jnp.int32(3)), steps)
        last = jax.tree.map(lambda a: a[-1], pendings)
        return settled, chain(before, last, pendings.inputs)

    settled, chained = one_by_one(mixer, params, before, x[:, 3:])
    _, whole = peek(mixer, params, x[:, 3:], before, 3)
    path = jnp.asarray([[0, 2], [1, 3], [0, 1], [2, 3], [3, 0], [1, 1]])
    for arguments in ((), (jnp.asarray([0, 1, 2, 3, 4, 2]),), (jnp.asarray([0, 1, 2, 2, 1, 2]), path)):
        ours, expected = commit(mixer, chained, *arguments), commit(mixer, whole, *arguments)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ours, expected)
    jax.tree.map(np.testing.assert_array_equal, commit(mixer, chained), settled)
