"""What drafts are trained for: a teacher's distribution, and a model's own at early exits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from masked_model import forward, loss_of, model, nats, parameters, windows
from model_helpers import quick_jit

import jaxmodels as jm
from jaxmodels.layers.masks import CAUSAL
from jaxmodels.training.objectives.distillation import Distillation, divergence
from jaxmodels.training.objectives.early_exits import EarlyExits
from jaxmodels.training.objectives.scorer import Scorer

OF = model(mask=CAUSAL)
TEACHER = {
    "model_type": "llama",
    "vocab_size": 21,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def kl(given, logits):
    """Of each place from the last, as PyTorch has it."""
    p, q = (torch.log_softmax(torch.tensor(np.asarray(one)), -1) for one in (given, logits))
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).numpy()


@pytest.mark.sweep
def test_the_divergence_is_that_of_pytorch_where_tokens_are_predicted():
    given, logits = jax.random.normal(jax.random.key(0), (2, 6, 12, 21))
    example = windows(prompt=4)
    mean, count = divergence(given, logits, example)
    assert count == 6 * 8
    np.testing.assert_allclose(mean, kl(given, logits)[:, 3:-1].mean(), rtol=1e-5)


def test_a_student_learns_from_its_teacher_alone(tmp_path):
    teacher = jm.init(jm.config_from_hf(TEACHER), seed=3)
    jm.save(teacher, tmp_path / "teacher")
    objective = Distillation(teacher=str(tmp_path / "teacher"))
    objective.check(OF)
    example = windows()
    loss, _ = loss_of(objective, OF, example)
    expected = kl(teacher(example.tokens), forward(OF, example.tokens))[:, :-1].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    at_teacher = quick_jit(lambda params: objective.loss(Scorer(teacher.config, params), example))
    same, _ = at_teacher(teacher.params)
    np.testing.assert_allclose(same, 0, atol=1e-6)


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    jm.save(jm.init(jm.config_from_hf({**TEACHER, "vocab_size": 22})), tmp_path / "teacher")
    with pytest.raises(ValueError, match="22 tokens and the model one of 21"):
        Distillation(teacher=str(tmp_path / "teacher")).check(OF)
    with pytest.raises(ValueError, match="teacher must name a model"):
        Distillation(teacher="")


def test_exits_are_drawn_to_the_end_which_learns_from_the_text():
    example = EarlyExits().prepare(windows(), jax.random.key(0))
    tokens = example.windows.tokens
    loss, count = loss_of(EarlyExits(weight=0.5), OF, example)
    first = {**parameters(OF), "blocks": {"0": parameters(OF)["blocks"]["0"]}}
    early = jax.jit(dataclasses.replace(OF, blocks=OF.blocks[:1]).forward)(first, tokens)
    last = forward(OF, tokens)
    expected = nats(last[:, :-1], tokens[:, 1:]).mean() + 0.5 * kl(last, early)[:, :-1].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert count == tokens[:, 1:].size


def test_the_end_has_no_gradient_from_the_exits():
    def last_block(weight):
        example = EarlyExits().prepare(windows(), jax.random.key(0))
        objective = EarlyExits(weight=weight)
        gradients = jax.jit(jax.grad(lambda params: objective.loss(Scorer(OF, params), example)[0]))
        return gradients(parameters(OF))["blocks"]["1"]

    for one, other in zip(*(jax.tree.leaves(last_block(weight)) for weight in (0.0, 1.0)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_a_dropped_block_is_passed_by():
    batch = windows()
    exits = jnp.ones((6,), jnp.int32)
    read = jnp.asarray([[True, row % 2 == 0] for row in range(6)])
    score = jax.jit(lambda params: Scorer(OF, params).with_exits(batch.tokens, exits, read))
    last, early = score(parameters(OF))
    np.testing.assert_allclose(last[1::2], early[1::2], atol=1e-6)
    np.testing.assert_allclose(last[::2], forward(OF, batch.tokens)[::2], atol=1e-4)


def test_later_blocks_are_dropped_more_often():
    keys = jax.random.split(jax.random.key(0), 4000)
    read = EarlyExits(dropout=0.4)._read(5, keys)
    np.testing.assert_allclose(1 - read.mean(0), 0.4 * (2 ** (np.arange(5) / 4) - 1), atol=0.03)


def test_exits_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match="deepest=2 must be less than the model's 2 blocks"):
        EarlyExits(deepest=2).check(OF)
    with pytest.raises(ValueError, match="dropout"):
        EarlyExits(dropout=1.5)
