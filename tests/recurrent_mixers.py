"""The table of recurrent mixers under test, by kind, and what their tests run them with."""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from model_helpers import D_MODEL, delta, lightning, mamba, quick_jit, rglru, short_conv, ssd

from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.recurrence import RecurrentState
from jaxmodels.layers.state.replay import Replay, ReplayState, folded
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window

LEARNED = {
    "dt_norm": RMSNorm(dim=3, eps=1e-3, axis=None),
    "b_norm": RMSNorm(dim=5, eps=1e-3, axis=None),
    "c_norm": RMSNorm(dim=5, eps=1e-3, axis=None),
}
KIMI = {
    "num_key_heads": 4,
    "key_dim": 6,
    "decay_rank": 6,
    "gate_rank": 6,
    "norm": GatedRMSNorm(dim=6, eps=1e-5, order="norm_then_gate", activation="sigmoid", axis=None),
}
SSD = {
    "one_group": ssd(num_groups=1, norm=GatedRMSNorm(dim=32)),
    "two_groups_all_biases": ssd(projection_bias=True, conv_width=3),
    "eight_groups_limits": ssd(
        num_groups=8, dt_limit=(0.1, 0.9), conv_bias=False, norm=GatedRMSNorm(dim=32, num_groups=8)
    ),
    "norm_first": ssd(norm=GatedRMSNorm(dim=32, num_groups=2, order="norm_then_gate"), conv_width=2),
    "scaled_inputs": ssd(input_scales=(0.5, 1.5, 0.8, 1.2, 0.9), projection_bias=True),
    "no_norm": ssd(norm=None, head_dim=2, dt_limit=(0.0, 0.5)),
}
MAMBA = {
    "mamba": mamba(),
    "mamba_biases": mamba(projection_bias=True, conv_bias=False, conv_width=3),
    "falcon_mamba": mamba(**dict.fromkeys(LEARNED, WeightlessRMSNorm(eps=1e-2))),
    "jamba": mamba(projection_bias=True, conv_width=2, **LEARNED),
}
DELTA = {
    "qwen3_next": delta(),
    "qwen3_next_one_key_head": delta(num_key_heads=1, conv_width=2, key_dim=9, chunk_size=8),
    "qwen3_next_ratio_1": delta(num_key_heads=4, chunk_size=24),
    "kimi_linear": delta(**KIMI, chunk_size=16),
    "kimi_linear_small_chunks": delta(**KIMI, conv_width=3, chunk_size=3),
}
RGLRU = {
    "four_blocks": rglru(),
    "wide_one_block": rglru(d_inner=28, num_blocks=1, conv_width=4),
    "channel_blocks_silu": rglru(d_inner=12, num_blocks=12, conv_width=2, activation="silu"),
}
SHORT_CONV = {"plain": short_conv(), "biases": short_conv(bias=True, conv_width=2)}
LIGHTNING = {"lightning": lightning(), "lightning_long_chunks": lightning(slope_scale=0.1, chunk_size=64)}
# States that are written once in several tokens: windows of up to four go to a ring of six.
REPLAYED = {
    f"{name}_replayed": replace(mixer, cache=Replay(ring=6, window=4))
    for name, mixer in {
        "ssd": ssd(),
        "ssd_no_norm": SSD["no_norm"],
        "qwen3_next": DELTA["qwen3_next"],
        "kimi_linear": DELTA["kimi_linear"],
    }.items()
}
MIXERS = {**SSD, **MAMBA, **DELTA, **RGLRU, **SHORT_CONV, **LIGHTNING, **REPLAYED}
# One of each kind, with what makes its state awkward.
OF_EACH_KIND = (
    "two_groups_all_biases",
    "jamba",
    "qwen3_next",
    "kimi_linear",
    "four_blocks",
    "biases",
    "lightning",
    "ssd_replayed",
    "qwen3_next_replayed",
    "kimi_linear_replayed",
)


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


def window_after(start, size, valid=None, **mask):
    """A window of tokens that follow `start` others, in each row."""
    start = jnp.asarray(start, jnp.int32)
    valid = jnp.full(start.shape, size) if valid is None else jnp.asarray(valid)
    return Window(start=start, positions=start[:, None] + jnp.arange(size), valid=valid, **mask)


@functools.partial(quick_jit, static_argnums=0)
def forward(mixer, params, x):
    return mixer.forward(params, x, window_after(jnp.zeros(x.shape[0]), x.shape[1]))


@functools.partial(quick_jit, static_argnums=0)
def peek(mixer, params, x, state, start, valid=None, mask=None):
    window = window_after(
        jnp.broadcast_to(start, x.shape[:1]), x.shape[1], valid, **({} if mask is None else {"mask": mask})
    )
    return peek_window(mixer, params, x, state, window)


@functools.partial(quick_jit, static_argnums=0)
def commit(mixer, pending, n=None, path=None):
    return mixer.commit(pending, n, path)


def plainly(state):
    """What a state says of a history, however it is kept."""
    if not isinstance(state, ReplayState):
        return state
    return RecurrentState(quick_jit(folded)(state), state.conv)
