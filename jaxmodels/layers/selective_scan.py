"""Mamba-1's selective scan: a diagonal state space whose step size, input and output maps follow the data.

Per inner channel i and state dimension r:

    state_t = exp(dt_t * rates) * state_{t-1} + B_t * (dt_t * x_t)         state: [R, I]
    y_t     = sum over r of C_t * state_t

with ``rates = A``, never positive, one per state dimension and channel. A token with ``dt = 0`` leaves the
state as it was. Source: Gu and Dao 2023, "Mamba", algorithm 2, with B discretised as ``dt * B`` as in the
authors' code. The arithmetic of the forms is that of `jaxmodels.layers.linear_recurrence`.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.linear_recurrence import Expand, recur, recur_tree, replay
from jaxmodels.layers.mapped import scan

# The states of a chunk's tokens exist at once where chunks are scanned in parallel: they should stay near the
# arithmetic units, and not outgrow the layer's other arrays, which are R times smaller per token.
CHUNK = 8

State = Float[Array, "B R I"]
Rates = Float[Array, "R I"]


@struct.dataclass
class SelectiveInputs:
    """What the state depends on.

    Attributes:
        u: f32[B, S, I], ``dt * x``.
        dt: f32[B, S, I], step sizes.
        b: f32[B, S, R].
    """

    u: jax.Array
    dt: jax.Array
    b: jax.Array


Scanned = tuple[SelectiveInputs, Float[Array, "... R"]]


def selective_scan(
    inputs: SelectiveInputs, c: Float[Array, "B S R"], rates: Rates, state: State
) -> tuple[Float[Array, "B S I"], State]:
    """Outputs of a window of any length and the state behind it; a single token is one step."""
    return recur((inputs, c), state, _expand_scanned(rates), _read, CHUNK)


def selective_replay(inputs: SelectiveInputs, rates: Rates, state: State, n: Int[Array, "B"]) -> State:
    """The state after the first `n` tokens of a window."""
    return replay(inputs, state, n, _expand(rates), CHUNK)


def selective_tree(
    inputs: SelectiveInputs,
    c: Float[Array, "B S R"],
    rates: Rates,
    state: State,
    ancestors: Bool[Array, "B S S"],
) -> Float[Array, "B S I"]:
    """Outputs of a window whose tokens form a tree: each token's history is the state, then its ancestors."""
    return recur_tree((inputs, c), state, ancestors, _expand_scanned(rates), _read)


def selective_matrix(
    dt: Float[Array, "B S I"], b: Float[Array, "B S R"], c: Float[Array, "B S R"], rates: Rates
) -> Float[Array, "B I S S"]:
    """The dense matrix M with ``y = M u`` from an empty history.

    ``M_ij = C_i (product over j < k <= i of exp(dt_k * A)) B_j``, one S x S matrix per channel: the oracle of
    the other forms and the layer's "hidden attention" (Ali, Zimerman and Wolf 2024). State dimensions are
    summed one after another.
    """
    size = dt.shape[1]
    steps = jnp.moveaxis(jnp.cumsum(dt, axis=1), 1, 2)
    lower = jnp.tril(jnp.ones((size, size), bool))
    # Zeroed before the exponential: above the diagonal the difference is negative and could overflow.
    between = jnp.where(lower, steps[..., :, None] - steps[..., None, :], 0.0)

    def add(matrix: Array, dimension: tuple[Array, Array, Array]) -> tuple[Array, None]:
        b_r, c_r, rate = dimension
        scores = jnp.where(lower, c_r[:, :, None] * b_r[:, None, :], 0.0)
        return matrix + scores[:, None] * jnp.exp(rate[:, None, None] * between), None

    empty = jnp.zeros((*steps.shape, size), jnp.float32)
    return scan(add, empty, (jnp.moveaxis(b, -1, 0), jnp.moveaxis(c, -1, 0), rates))[0]


def _expand(rates: Rates) -> Expand:
    def expand(inputs: SelectiveInputs) -> tuple[Float[Array, "... R I"], Float[Array, "... R I"]]:
        decay = jnp.exp(inputs.dt[..., None, :] * rates)
        return decay, inputs.b[..., :, None] * inputs.u[..., None, :]

    return expand


def _expand_scanned(rates: Rates) -> Expand:
    expand = _expand(rates)
    return lambda scanned: expand(scanned[0])


def _read(state: Float[Array, "... R I"], scanned: Scanned) -> Float[Array, "... I"]:
    return jnp.einsum("...r,...ri->...i", scanned[1], state)
