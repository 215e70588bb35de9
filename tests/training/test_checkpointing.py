import jax
import numpy as np
import pytest
from toy_language_model import ToyModel

from jaxmodels.training.checkpointing import TrainCheckpoints
from jaxmodels.training.data import Batches
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.train import abstract_state, init_state, make_train_step

MODEL = ToyModel()
SCHEDULE = WarmupCosine(peak=0.05, warmup_steps=2, total_steps=10)
OPTIMIZER = AdamW().build(SCHEDULE, MODEL.spec())


def run(state, first, last):
    step = make_train_step(MODEL, OPTIMIZER, SCHEDULE, accumulate=2)
    tokens = np.random.default_rng(0).integers(0, MODEL.vocab_size, 200)
    batches = Batches(tokens=tokens, batch_size=4, sequence_length=8)
    for i in range(first, last):
        state, _ = step(state, batches(i))
    return state


def test_resuming_is_exact(tmp_path):
    straight = run(init_state(MODEL, OPTIMIZER), 0, 10)
    with TrainCheckpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(run(init_state(MODEL, OPTIMIZER), 0, 5))
    with TrainCheckpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest_step() == 5
        restored = checkpoints.restore(abstract_state(MODEL, OPTIMIZER))
    resumed = run(restored, int(restored.step), 10)
    assert jax.tree.structure(resumed) == jax.tree.structure(straight)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    assert resumed.step == 10


def test_only_the_newest_are_kept(tmp_path):
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        state = init_state(MODEL, OPTIMIZER)
        for step in range(3):
            checkpoints.save(state.replace(step=state.step + step))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["1", "2"]


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    state = init_state(MODEL, OPTIMIZER)
    expected = jax.tree.map(np.array, state.params)
    with TrainCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        run(state, 0, 1)
        checkpoints.close()
        with TrainCheckpoints(tmp_path) as reopened:
            restored = reopened.restore(abstract_state(MODEL, OPTIMIZER))
    jax.tree.map(np.testing.assert_array_equal, restored.params, expected)


def test_errors(tmp_path):
    with TrainCheckpoints(tmp_path) as checkpoints:
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            checkpoints.restore(abstract_state(MODEL, OPTIMIZER))
        checkpoints.save(init_state(MODEL, OPTIMIZER))
    other = ToyModel(width=4)
    with (
        TrainCheckpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"'embedding' has shape \(17, 8\) in step 0.*\(17, 4\)"),
    ):
        checkpoints.restore(abstract_state(other, AdamW().build(SCHEDULE, other.spec())))
    with pytest.raises(ValueError, match="keep must be at least 1"):
        TrainCheckpoints(tmp_path, keep=0)
