"""What a policy of depth costs in accuracy: given texts read token by token, as decoding does."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import ALL_LAYERS, Depth


@struct.dataclass
class Comparison:
    """Means over the tokens behind the prompts, of the model and of the model by a policy.

    Attributes:
        accuracy, policy_accuracy: how often the token found best is the text's.
        agreement: how often both find the same token best.
        nats, policy_nats: cross-entropy of the text's tokens.
        layers: passes through blocks that the policy reads per token.
        lost_error: the standard error of the accuracy that the policy loses, if the texts are drawn
            independently; None for one text.
    """

    accuracy: Any
    policy_accuracy: Any
    agreement: Any
    nats: Any
    policy_nats: Any
    layers: Any
    lost_error: Any


def compare(
    model: Decoder,
    params: Params,
    policy: Depth,
    windows: Int[np.ndarray, "N S"],
    *,
    prompt: int,
    prompt_depth: Depth = ALL_LAYERS,
    batch_size: int = 32,
) -> Comparison:
    """Reads texts by `policy` behind a prompt of so many tokens, each as a window of its own.

    Args:
        prompt: tokens that are read at once by `prompt_depth`, from 1 to the windows' less 2.

    Raises ValueError where there is no text, none is left behind the prompt, or the policy is not for the
    model.
    """
    if not len(windows):
        raise ValueError("compare: windows holds no text")
    if not 1 <= prompt <= windows.shape[1] - 2:
        raise ValueError(f"prompt must lie from 1 to {windows.shape[1] - 2} for these windows, got {prompt}")
    batches = np.split(windows, range(batch_size, len(windows), batch_size))
    parts = [
        jax.device_get(_compare(params, policy, prompt_depth, jnp.asarray(some), model=model, prompt=prompt))
        for some in batches
    ]
    texts = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    lost = texts["accuracy"] - texts["policy_accuracy"]
    error = float(lost.std(ddof=1) / math.sqrt(len(lost))) if len(lost) > 1 else None
    return Comparison(**{name: float(found.mean()) for name, found in texts.items()}, lost_error=error)


@partial(jax.jit, static_argnames=("model", "prompt"))
def _compare(
    params: Params,
    policy: Depth,
    prompt_depth: Depth,
    tokens: Int[Array, "B S"],
    *,
    model: Decoder,
    prompt: int,
) -> dict[str, Float[Array, "B"]]:
    """The means of each text, by the names of the fields of `Comparison`."""
    full = model.forward(params, tokens)[:, prompt:-1]
    logits, layers = read_stepwise(model, params, policy, tokens, prompt=prompt, prompt_depth=prompt_depth)
    logits, following = logits[:, :-1], tokens[:, prompt + 1 :]
    best, policy_best = jnp.argmax(full, axis=-1), jnp.argmax(logits, axis=-1)
    found = {
        "accuracy": best == following,
        "policy_accuracy": policy_best == following,
        "agreement": best == policy_best,
        "nats": _nats(full, following),
        "policy_nats": _nats(logits, following),
        "layers": layers,
    }
    return {name: values.mean(axis=1) for name, values in found.items()}


def read_stepwise(
    model: Decoder,
    params: Params,
    policy: Depth,
    tokens: Int[Array, "B S"],
    *,
    prompt: int,
    prompt_depth: Depth = ALL_LAYERS,
) -> tuple[Float[Array, "B N V"], Int[Array, "B N"]]:
    """Logits behind each token from number `prompt` on, and the passes that it was read in."""
    batch, size = tokens.shape
    cache = model.init_cache(batch, size, model.dtype_of(params), depth=policy)
    _, pending = model.peek(params, tokens[:, :prompt], cache, depth=prompt_depth)

    def step(cache: Any, token: Int[Array, "B"]) -> tuple[Any, tuple[Array, Array]]:
        scored, pending = model.peek(params, token[:, None], cache, depth=policy)
        return model.commit(pending), (scored.logits[:, 0], pending.depth[:, 0])

    _, (logits, layers) = lax.scan(step, model.commit(pending), tokens[:, prompt:].T)
    return jnp.swapaxes(logits, 0, 1), layers.T


def _nats(logits: Float[Array, "B S V"], following: Int[Array, "B S"]) -> Float[Array, "B S"]:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), following[..., None], axis=-1)
    return -chosen[..., 0]
