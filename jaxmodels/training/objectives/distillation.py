"""Distillation: the whole distribution of another model in the place of the text's next token."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import shown
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Score, Windows


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The Kullback-Leibler divergence of the model's next-token distribution from a teacher's.

    What a draft of speculative decoding is trained for: the nearer its distribution is to that of the model
    that verifies, the more of its tokens are accepted. Source: Hinton et al. 2015
    (https://arxiv.org/abs/1503.02531); for drafts Zhou et al. 2023 (DistillSpec,
    https://arxiv.org/abs/2310.08461), here on given texts and with the forward divergence. It is scored by
    the text, as `NextToken`.

    Attributes:
        teacher: a model directory or a bundled name.

    Raises:
        ValueError: `teacher` is no text; when run, the teacher's vocabulary is another.
    """

    teacher: str

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, str) or not self.teacher:
            raise ValueError(
                f"Distillation: teacher must name a model, such as 'tiny-qwen3', got {shown(self.teacher)}"
            )

    @property
    def estimator(self) -> NextToken:
        return NextToken()

    def check(self, model: Any) -> None:
        theirs, ours = _teacher(self.teacher).config.vocab_size, getattr(model, "vocab_size", None)
        if theirs != ours:
            raise ValueError(
                f"distillation: the teacher {self.teacher!r} has a vocabulary of {theirs} tokens and the "
                f"model one of {ours}; they must be the same"
            )

    def prepare(self, windows: Windows, key: jax.Array) -> Windows:
        return windows

    def loss(self, score: Score, example: Windows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        teacher = _teacher(self.teacher)
        given = teacher.config.forward(teacher.params, example.tokens)
        return divergence(given, score(example.tokens), example)


def divergence(
    given: Float[Array, "B S V"], logits: Float[Array, "B S V"], example: Windows
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean divergence of `logits` from `given`, whose gradient is none, and the tokens it is taken over.

    Both are scores of each token's successor; it counts where that one is to be predicted.
    """
    p = jax.nn.log_softmax(jax.lax.stop_gradient(given)[:, :-1].astype(jnp.float32))
    q = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    nats = (jnp.exp(p) * (p - q)).sum(-1)
    predicted = example.predicted[:, 1:].astype(jnp.float32)
    count = predicted.sum()
    return (nats * predicted).sum() / jnp.maximum(count, 1.0), count


@functools.lru_cache(maxsize=2)
def _teacher(name: str) -> Any:
    from jaxmodels.io import as_language_model, load

    return as_language_model(load(name, "float32"), name)
