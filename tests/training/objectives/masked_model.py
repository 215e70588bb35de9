"""A small bidirectional model with a mask token, and windows for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.spec import init_params
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.filling import MaskFilling
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.objectives.scorer import Scorer

MASK = 20


def model(mask=BIDIRECTIONAL, offset=0):
    decoder = config_from_hf(
        {
            "model_type": "llama",
            "vocab_size": 21,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
    )
    return dataclasses.replace(decoder, mask=mask, filling=MaskFilling(mask_token=MASK, offset=offset))


@functools.cache
def parameters(of):
    # wide embeddings: logits of models as they are drawn are nearly the same everywhere
    params = init_params(of.spec(), jax.random.key(7))
    return {**params, "embed": {"weight": 30 * params["embed"]["weight"]}}


def prepare(objective, given, key):
    """`Objective.prepare`, in one program."""
    return jax.jit(objective.prepare)(given, key)


def costs(objective, of, example):
    """`Estimator.nats`."""
    return jax.jit(lambda params, drawn: objective.nats(Scorer(of, params), drawn))(parameters(of), example)


def loss_of(objective, of, example):
    """`Objective.loss`."""
    return jax.jit(lambda params, drawn: objective.loss(Scorer(of, params), drawn))(parameters(of), example)


def windows(batch=6, size=12, prompt=0):
    tokens = jax.random.randint(jax.random.key(1), (batch, size), 0, MASK)
    return Windows(tokens=tokens, predicted=jnp.broadcast_to(jnp.arange(size) >= prompt, (batch, size)))


def shown(tokens, hidden):
    return np.where(hidden, MASK, tokens)


def nats(logits, tokens, offset=0):
    """Cross-entropy [B, S] of each token under the logits that speak of it; 0 where none do."""
    logits = np.asarray(logits, np.float64)
    logits = np.concatenate([logits[:, :offset] * 0, logits[:, : logits.shape[1] - offset]], axis=1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    costs = -np.take_along_axis(log_p, np.asarray(tokens)[..., None], -1)[..., 0]
    return np.where(np.arange(costs.shape[1]) >= offset, costs, 0)


def forward(of, tokens):
    return _forward(of, parameters(of), jnp.asarray(tokens))


@functools.partial(jax.jit, static_argnums=0)
def _forward(of, params, tokens):
    return of.forward(params, tokens)


def gradients(objective, of, key=0, **fields):
    """Of the loss of one draw."""
    example = objective.prepare(windows(**fields), jax.random.key(key))
    loss = jax.jit(jax.grad(lambda params, drawn: objective.loss(Scorer(of, params), drawn)[0]))
    return loss(parameters(of), example)
