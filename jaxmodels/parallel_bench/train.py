"""Trains the bundled models on the tasks: one that fills in masks, and its autoregressive twin; and from the
twin one for Jacobi decoding. Also one that thinks before it answers.

    python -m jaxmodels.parallel_bench.train tiny-llada-lists runs/tiny-llada-lists
    python -m jaxmodels.parallel_bench.train tiny-llama-lists runs/tiny-llama-lists
    python -m jaxmodels.parallel_bench.train tiny-llama-lists-jacobi runs/tiny-llama-lists-jacobi
    python -m jaxmodels.parallel_bench.train tiny-llama-scratchpad runs/tiny-llama-scratchpad

All have the same blocks and optimizer, and all but the last the same tokenizer and questions; that one is
asked questions of its own (`scratchpads`). Questions are made anew for every step, so that none is seen
twice; all follow from the seed. The same command goes on with a run that was interrupted.
"""

import argparse
import bisect
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jaxmodels as jm
from jaxmodels.checkpoints import GenerationDefaults, Tokenizer
from jaxmodels.layers.spec import Params, unflatten, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import config_from_hf
from jaxmodels.parallel_bench import scratchpads
from jaxmodels.parallel_bench.tasks import LONGEST, SHORTEST, TASKS, ask
from jaxmodels.parallel_bench.vocabulary import MASK, MASK_ID, THOUGHTFUL, UNKNOWN, build_tokenizer
from jaxmodels.training.checkpointing import TrainCheckpoints
from jaxmodels.training.objectives.consistency import Consistency
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Objective, Windows
from jaxmodels.training.optimizer import Muon, WarmupStableDecay
from jaxmodels.training.start import load_adapted, load_start
from jaxmodels.training.tokenizer import END_OF_TEXT, END_OF_TEXT_ID
from jaxmodels.training.train import TrainState, abstract_state, first_state, init_state, make_train_step

SHORTEST_CANVAS = 10

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


@dataclass(frozen=True)
class Sizes:
    """How long what is asked is.

    Attributes:
        items: the fewest and the most of a list.
        windows: tokens of the windows of successive steps, again and again.
    """

    items: tuple[int, int]
    windows: tuple[int, ...]


# A longer window now and then, for answers that are shorter than their canvas.
SHORT = Sizes((6, 6), (24, 24, 24, 24, 24, 24, 24, 40))
LONG = Sizes((SHORTEST, LONGEST), (64,))


def windows(step: int, batch: int, seed: int, weights: Mapping[str, float], sizes: Sizes = SHORT) -> Windows:
    """Those of one step: the prompt, the answer, and the end token up to the end. Each answer is drawn from
    all that count. Predicted are the places of the canvas, whose length is drawn; nothing is behind it.

    Args:
        step: of the whole run.
        batch: rows.
        seed: of the questions.
        weights: of tasks among the questions, 1 for those without.
        sizes: of lists and windows.
    """
    random, size = Random(f"train/{seed}/{step}"), sizes.windows[step % len(sizes.windows)]
    ids = _ids()
    tokens = np.full((batch, size), END_OF_TEXT_ID, np.int32)
    canvases, valid = np.zeros((batch, size), bool), np.zeros(batch, np.int32)
    names = random.choices(list(TASKS), [weights.get(task, 1.0) for task in TASKS], k=batch)
    for row, task in enumerate(names):
        question = ask(task, _items(sizes, random), random)
        prompt = question.prompt.split()
        text = [*prompt, *question.answers.draw(random)]
        shortest = max(SHORTEST_CANVAS, len(text) - len(prompt) + 1)
        tokens[row, : len(text)] = [ids[word] for word in text]
        valid[row] = len(prompt) + random.randint(shortest, size - len(prompt))
        canvases[row, len(prompt) : valid[row]] = True
    return Windows(tokens=jnp.asarray(tokens), predicted=jnp.asarray(canvases), valid=jnp.asarray(valid))


def _items(sizes: Sizes, random: Random) -> int:
    """A list's length; nothing is drawn where all are as long."""
    fewest, most = sizes.items
    return fewest if fewest == most else random.randint(fewest, most)


@functools.cache
def _ids() -> dict[str, int]:
    return build_tokenizer().get_vocab()


def with_one_end(windows: Windows) -> Windows:
    """The windows as a model that goes on with texts is asked: it predicts the end of an answer once."""
    tokens = windows.tokens
    before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    goes_on = (tokens != END_OF_TEXT_ID) | (before != END_OF_TEXT_ID)
    return replace(windows, predicted=windows.predicted & goes_on)


@dataclass(frozen=True)
class Stage:
    """A part of a run, with its own learning rate and questions.

    Attributes:
        schedule: the learning rate, and the number of steps.
        draw: the windows of a step of the whole run, of so many rows, by the seed.
    """

    schedule: WarmupStableDecay
    draw: Callable[[int, int, int], Windows]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How one of the models is trained.

    Attributes:
        model: its ``config.json``.
        objective: what is differentiated.
        asked: from the windows of a step, whose predicted tokens are the canvases, to those that are learnt
            from.
        stages: of the run, one after the other.
        batch: rows of a step.
        seed: of the parameters, the questions and the masks.
        start_from: the bundled model that the run begins with; None draws the parameters.
        adapt_from: one whose tokenizer lacks `words` instead.
        words: of its tokenizer, behind those of the tasks.
    """

    model: dict[str, Any]
    objective: Objective
    asked: Callable[[Windows], Windows]
    stages: tuple[Stage, ...]
    batch: int = 32
    seed: int = 0
    start_from: str | None = None
    adapt_from: str | None = None
    words: tuple[str, ...] = ()

    @property
    def ends(self) -> list[int]:
        """The step that each stage ends before."""
        return list(itertools.accumulate(stage.schedule.total_steps for stage in self.stages))

    def windows(self, step: int) -> Windows:
        """What is learnt from in a step."""
        stage = self.stages[bisect.bisect_right(self.ends, step)]
        return self.asked(stage.draw(step, self.batch, self.seed))

    def run(self, output: Path) -> jm.Model:
        """Trains, or goes on from the last checkpoint in `output`."""
        config = config_from_hf(self.model)
        schedule = optax.join_schedules([stage.schedule for stage in self.stages], self.ends[:-1])
        optimizer = Muon(weight_decay=0.01).build(schedule, config.spec())

        advance = make_train_step(config, optimizer, schedule, objective=self.objective, seed=self.seed)
        with TrainCheckpoints(output / "checkpoints") as checkpoints:
            if checkpoints.latest_step() is None:
                state = self._first_state(config, optimizer)
            else:
                state = checkpoints.restore(abstract_state(config, optimizer))
            losses = []
            for step in range(int(state.step), self.ends[-1]):
                batch = self.windows(step)
                state, metrics = advance(state, batch.tokens, batch.predicted, batch.valid)
                losses.append(metrics["loss"])
                if len(losses) == 100 or step + 1 == self.ends[-1]:
                    print(f"step {step + 1}: {np.mean(losses):.4f} nats per place", flush=True)
                    losses.clear()
                if (step + 1) % 500 == 0 or step + 1 == self.ends[-1]:
                    checkpoints.save(state)
        return _finished(config, state.params, self.words)

    def _first_state(self, config: Decoder, optimizer: optax.GradientTransformation) -> TrainState:
        if self.adapt_from is not None:
            return first_state(load_adapted(self.adapt_from, config, self.seed), optimizer)
        if self.start_from is None:
            return init_state(config, optimizer, self.seed)
        return first_state(load_start(self.start_from, config), optimizer)


def _finished(config: Decoder, trained: Params, words: tuple[str, ...]) -> jm.Model:
    """The model as it is bundled: bfloat16, with its tokenizer."""
    end = END_OF_TEXT_ID
    return jm.Model(
        config=config,
        params=unflatten({path: leaf.astype(jnp.bfloat16) for path, leaf in walk(trained)}, config.spec()),
        tokenizer=Tokenizer.from_backend(
            build_tokenizer(words),
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
_HARD = {"sort": 2.0, "shuffle": 2.0, "latin_square": 1.0}
# What each of the two had not learnt by the end of the first stage.
_UNLEARNT = {
    "replace_all": 3.0, "replace_index": 3.0, "shuffle": 4.0, "replace_random": 3.0, "sort": 3.0,
    "latin_square": 2.0,
}  # fmt: skip
# Drafts can be right where there is one answer.
_ONE_ANSWER = {
    "sort": 2.0, "shuffle": 0.2, "replace_random": 0.2, "insert_random": 0.2, "remove_random": 0.2,
    "latin_square": 0.2,
}  # fmt: skip
_CHOICES = {"shuffle": 4.0, "replace_random": 4.0, "latin_square": 3.0}


def _of(weights: Mapping[str, float], sizes: Sizes = SHORT) -> Callable[[int, int, int], Windows]:
    """List tasks in a mixture."""
    return functools.partial(windows, weights=weights, sizes=sizes)


def _as_they_are(windows: Windows) -> Windows:
    return windows


def _schedule(peak: float, steps: int, decay_steps: int) -> WarmupStableDecay:
    return WarmupStableDecay(peak=peak, warmup_steps=50, decay_steps=decay_steps, total_steps=steps)


# It has learnt the task long before the learning rate has fallen.
_SCRATCHPAD = WarmupStableDecay(
    peak=5e-3, warmup_steps=50, decay_steps=200, total_steps=1000, final_fraction=5 / 7
)

COURSES = {
    "tiny-llada-lists": Course(
        model=LLADA,
        objective=MaskedDiffusion(masking="counted", complementary=True),
        asked=_as_they_are,
        stages=(
            Stage(_schedule(6e-3, 9000, 4000), _of(_HARD)),
            Stage(_schedule(4e-3, 4000, 3000), _of(_UNLEARNT)),
        ),
    ),
    "tiny-llama-lists": Course(
        model=LLAMA,
        objective=NextToken(),
        asked=with_one_end,
        stages=(
            Stage(_schedule(6e-3, 7000, 2000), _of(_ALL)),
            Stage(_schedule(4e-3, 2700, 700), _of(_CHOICES)),
        ),
    ),
    "tiny-llama-lists-jacobi": Course(
        model=LLAMA,
        objective=Consistency(window=16, places=6, rounds=3, next_token_weight=5.0),
        asked=with_one_end,
        stages=(Stage(_schedule(4e-3, 12000, 5000), _of(_ONE_ANSWER, LONG)),),
        batch=64,
        seed=1,
        start_from="tiny-llama-lists",
    ),
    "tiny-llama-scratchpad": Course(
        model=LLAMA | {"vocab_size": VOCABULARY + 1},
        objective=NextToken(),
        asked=_as_they_are,
        stages=(Stage(_SCRATCHPAD, scratchpads.windows),),
        adapt_from="tiny-llama-lists-jacobi",
        words=THOUGHTFUL,
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
