"""Trains the two bundled models on the tasks: one that fills in masks, and its autoregressive twin.

    python -m jaxmodels.parallel_bench.train tiny-llada-lists runs/tiny-llada-lists
    python -m jaxmodels.parallel_bench.train tiny-llama-lists runs/tiny-llama-lists

Both have the same blocks, tokenizer, optimizer and questions. Questions are made anew for every step, so that
none is seen twice; all follow from the seed. The same command goes on with a run that was interrupted.
"""

import argparse
import bisect
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float

import jaxmodels as jm
from jaxmodels.checkpoints import GenerationDefaults, Tokenizer
from jaxmodels.layers.spec import Params, unflatten, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import config_from_hf
from jaxmodels.parallel_bench.tasks import TASKS, ask
from jaxmodels.parallel_bench.vocabulary import MASK, MASK_ID, UNKNOWN, build_tokenizer
from jaxmodels.training.checkpointing import TrainCheckpoints
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.optimizer import Muon, WarmupStableDecay
from jaxmodels.training.tokenizer import END_OF_TEXT, END_OF_TEXT_ID
from jaxmodels.training.train import TrainState, abstract_state, init_state

ITEMS = 6  # of each list
SHORTEST_CANVAS = 10
# Tokens of the windows of successive steps: a longer one now and then, for answers that are shorter than
# their canvas.
WINDOWS = (24, 24, 24, 24, 24, 24, 24, 40)

VOCABULARY, WIDTH, INNER, LAYERS, HEADS, POSITIONS = 64, 128, 256, 3, 4, 256
LLADA = {
    "model_type": "llada",
    "vocab_size": VOCABULARY,
    "embedding_size": VOCABULARY,
    "d_model": WIDTH,
    "mlp_hidden_size": INNER,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "n_kv_heads": HEADS,
    "max_sequence_length": POSITIONS,
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_theta": 10000.0,
    "activation_type": "silu",
    "weight_tying": True,
    "include_bias": False,
    "mask_token_id": MASK_ID,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@struct.dataclass
class Windows:
    """Questions and their answers.

    Attributes:
        tokens: i32[B, S], the prompt, the answer, and the end token up to the end.
        is_answer: bool[B, S], the canvas: the places behind the prompt that are to be filled in.
        size: i32[B], tokens of prompt and canvas; nothing is behind them.
    """

    tokens: jax.Array
    is_answer: jax.Array
    size: jax.Array


Loss: TypeAlias = Callable[[Decoder, Params, Windows, jax.Array], Float[Array, ""]]


def windows(step: int, batch: int, seed: int, weights: Mapping[str, float]) -> Windows:
    """Those of one step. Each answer is drawn from all that count, and each canvas has its own length.

    Args:
        step: of the whole run.
        batch: rows.
        seed: of the questions.
        weights: of tasks among the questions, 1 for those without.
    """
    random, size = Random(f"train/{seed}/{step}"), WINDOWS[step % len(WINDOWS)]
    ids = _ids()
    tokens = np.full((batch, size), END_OF_TEXT_ID, np.int32)
    is_answer, sizes = np.zeros((batch, size), bool), np.zeros(batch, np.int32)
    names = random.choices(list(TASKS), [weights.get(task, 1.0) for task in TASKS], k=batch)
    for row, task in enumerate(names):
        question = ask(task, ITEMS, random)
        prompt = question.prompt.split()
        text = [*prompt, *question.answers.draw(random)]
        tokens[row, : len(text)] = [ids[word] for word in text]
        sizes[row] = len(prompt) + random.randint(SHORTEST_CANVAS, size - len(prompt))
        is_answer[row, len(prompt) : sizes[row]] = True
    return Windows(tokens=jnp.asarray(tokens), is_answer=jnp.asarray(is_answer), size=jnp.asarray(sizes))


@functools.cache
def _ids() -> dict[str, int]:
    return build_tokenizer().get_vocab()


def filling_loss(config: Decoder, params: Params, batch: Windows, key: jax.Array) -> Float[Array, ""]:
    """Masked diffusion on the answers (LLaDA, https://arxiv.org/abs/2502.09992): of the L places of a canvas
    l are masked, l uniform in 1..L, and each row costs the mean over them.

    Every row is seen a second time with the other places masked, so that each place is predicted once.
    """
    for_count, for_order = jax.random.split(key)
    rows, is_answer = batch.tokens.shape[0], batch.is_answer
    count = jax.random.randint(for_count, (rows,), 1, is_answer.sum(1) + 1)
    order = jnp.where(is_answer, jax.random.uniform(for_order, is_answer.shape), 2.0)
    first = is_answer & (jnp.argsort(jnp.argsort(order, axis=1), axis=1) < count[:, None])
    masked = jnp.concatenate([first, is_answer & ~first])
    tokens = jnp.concatenate([batch.tokens, batch.tokens])
    shown = jnp.where(masked, MASK_ID, tokens)
    logits = config.forward(params, shown, valid=jnp.concatenate([batch.size, batch.size]))
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    masks = masked.sum(1)
    return ((nats * masked).sum(1) / jnp.maximum(masks, 1)).sum() / (masks > 0).sum()


def continuing_loss(config: Decoder, params: Params, batch: Windows, key: jax.Array) -> Float[Array, ""]:
    """Next-token cross-entropy of the answers and one end token each."""
    tokens = batch.tokens
    before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    predicted = batch.is_answer & ((tokens != END_OF_TEXT_ID) | (before != END_OF_TEXT_ID))
    return language_model_loss(config.forward(params, tokens), tokens, predicted)[0]


@dataclass(frozen=True)
class Stage:
    """A part of a run, with its own learning rate and mixture of tasks.

    Attributes:
        schedule: the learning rate, and the number of steps.
        weights: see `windows`.
    """

    schedule: WarmupStableDecay
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How one of the two models is trained.

    Attributes:
        model: its ``config.json``.
        loss: what is differentiated.
        stages: of the run, one after the other.
        batch: rows of a step.
        seed: of the parameters, the questions and the masks.
    """

    model: dict[str, Any]
    loss: Loss
    stages: tuple[Stage, ...]
    batch: int = 32
    seed: int = 0

    @property
    def ends(self) -> list[int]:
        """The step that each stage ends before."""
        return list(itertools.accumulate(stage.schedule.total_steps for stage in self.stages))

    def windows(self, step: int) -> Windows:
        """What is learnt from in a step."""
        stage = self.stages[bisect.bisect_right(self.ends, step)]
        return windows(step, self.batch, self.seed, stage.weights)

    def run(self, output: Path) -> jm.Model:
        """Trains, or goes on from the last checkpoint in `output`."""
        config = config_from_hf(self.model)
        schedule = optax.join_schedules([stage.schedule for stage in self.stages], self.ends[:-1])
        optimizer = Muon(weight_decay=0.01).build(schedule, config.spec())

        @jax.jit
        def advance(state: TrainState, batch: Windows) -> tuple[TrainState, Float[Array, ""]]:
            key = jax.random.fold_in(jax.random.key(self.seed), state.step)
            loss, grads = jax.value_and_grad(lambda p: self.loss(config, p, batch, key))(state.params)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(step=state.step + 1, params=params, opt_state=opt_state), loss

        with TrainCheckpoints(output / "checkpoints") as checkpoints:
            if checkpoints.latest_step() is None:
                state = init_state(config, optimizer, self.seed)
            else:
                state = checkpoints.restore(abstract_state(config, optimizer))
            losses = []
            for step in range(int(state.step), self.ends[-1]):
                state, loss = advance(state, self.windows(step))
                losses.append(loss)
                if len(losses) == 100 or step + 1 == self.ends[-1]:
                    print(f"step {step + 1}: {np.mean(losses):.4f} nats per place", flush=True)
                    losses.clear()
                if (step + 1) % 500 == 0 or step + 1 == self.ends[-1]:
                    checkpoints.save(state)
        return _finished(config, state.params)


def _finished(config: Decoder, trained: Params) -> jm.Model:
    """The model as it is bundled: bfloat16, with its tokenizer."""
    end = END_OF_TEXT_ID
    return jm.Model(
        config=config,
        params=unflatten({path: leaf.astype(jnp.bfloat16) for path, leaf in walk(trained)}, config.spec()),
        tokenizer=Tokenizer.from_backend(
            build_tokenizer(),
            special_tokens={
                "eos_token": END_OF_TEXT,
                "pad_token": END_OF_TEXT,
                "mask_token": MASK,
                "unk_token": UNKNOWN,
            },
        ),
        generation=GenerationDefaults(eos_token_ids=(end,), pad_token_id=end),
        metadata={"eos_token_id": end, "pad_token_id": end},
    )


_ALL = {"sort": 2.0, "latin_square": 0.5}
# What each of the two had not learnt by the end of the first stage.
_UNLEARNT = {"replace_all": 4.0, "replace_index": 3.0, "shuffle": 4.0, "replace_random": 2.0}
_CHOICES = {"shuffle": 4.0, "replace_random": 4.0, "latin_square": 3.0}


def _schedule(peak: float, steps: int, decay_steps: int) -> WarmupStableDecay:
    return WarmupStableDecay(peak=peak, warmup_steps=50, decay_steps=decay_steps, total_steps=steps)


COURSES = {
    "tiny-llada-lists": Course(
        model=LLADA,
        loss=filling_loss,
        stages=(Stage(_schedule(6e-3, 4800, 2200), _ALL), Stage(_schedule(4e-3, 2000, 1400), _UNLEARNT)),
    ),
    "tiny-llama-lists": Course(
        model=LLAMA,
        loss=continuing_loss,
        stages=(Stage(_schedule(6e-3, 7000, 2000), _ALL), Stage(_schedule(4e-3, 2700, 700), _CHOICES)),
    ),
}


def main() -> None:
    """The command line, see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(COURSES))
    parser.add_argument("output", type=Path, help="checkpoints, and the model in OUTPUT/model")
    arguments = parser.parse_args()
    jm.save(COURSES[arguments.name].run(arguments.output), arguments.output / "model")


if __name__ == "__main__":
    main()
