"""A model as a function from texts to its most probable next tokens, for iterations that are written out."""

import jax.numpy as jnp
import numpy as np
from model_helpers import quick_jit


def next_tokens(config, params, width):
    """``choose(texts)``: the greedy token behind each of some texts of at most `width` tokens."""
    forward = quick_jit(lambda tokens: jnp.argmax(config.forward(params, tokens), axis=-1))
    rows = 8

    def choose(texts):
        chosen = []
        for first in range(0, len(texts), rows):
            some = texts[first : first + rows]
            padded = np.zeros((rows, width), np.int32)
            for row, text in zip(padded, some, strict=False):
                row[: len(text)] = text
            found = np.asarray(forward(padded))
            chosen += [int(found[i, len(text) - 1]) for i, text in enumerate(some)]
        return chosen

    return choose


def agreement(choose, history, draft):
    """How many leading tokens of a draft are the model's own, and its choices behind all of them."""
    choices = choose([[*history, *draft[:i]] for i in range(len(draft) + 1)])
    count = 0
    while count < len(draft) and draft[count] == choices[count]:
        count += 1
    return count, choices
