import jax
import numpy as np
import pytest
from full_disk import at_most
from toy_language_model import ToyModel

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.manifest import MANIFEST_FILE
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


def saved_twice(directory):
    state = init_state(MODEL, OPTIMIZER)
    with TrainCheckpoints(directory) as checkpoints:
        for step in (4, 8):
            checkpoints.save(state.replace(step=state.step + step))


def files(step_directory):
    return [path for path in step_directory.rglob("*") if path.is_file()]


def flip_the_data(step_directory):
    largest = max(files(step_directory / "default"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def cut_everything(step_directory):
    for path in files(step_directory):
        path.write_bytes(path.read_bytes()[:10])


def remove_the_description(step_directory):
    (step_directory / "default" / "_METADATA").unlink()


@pytest.mark.parametrize("damage", [flip_the_data, cut_everything, remove_the_description])
def test_a_damaged_checkpoint_is_skipped_and_can_be_saved_again(tmp_path, damage):
    saved_twice(tmp_path)
    damage(tmp_path / "8")
    with TrainCheckpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match=r"/8' cannot be read and is skipped for the one before it"):
            state = checkpoints.restore(abstract_state(MODEL, OPTIMIZER))
        assert state.step == 4
        checkpoints.set_aside_after(4)
        checkpoints.save(state.replace(step=state.step + 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "8", "unreadable-8-1"]
    with TrainCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract_state(MODEL, OPTIMIZER)).step == 8


def test_a_run_without_an_intact_checkpoint_is_named(tmp_path):
    saved_twice(tmp_path)
    for step in ("4", "8"):
        cut_everything(tmp_path / step)
    told = pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read.*another directory")
    with TrainCheckpoints(tmp_path) as checkpoints, pytest.warns(UserWarning, match="/8'"), told:
        checkpoints.restore(abstract_state(MODEL, OPTIMIZER))


def test_checkpoints_without_checksums_are_read(tmp_path):
    saved_twice(tmp_path)
    (tmp_path / "8" / MANIFEST_FILE).unlink()
    with TrainCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract_state(MODEL, OPTIMIZER)).step == 8


def test_a_checkpoint_that_the_disk_does_not_take_is_named_and_the_one_before_stays(tmp_path):
    state = init_state(MODEL, OPTIMIZER)
    with TrainCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    full = TrainCheckpoints(tmp_path)
    with at_most(100):
        full.save(state.replace(step=state.step + 4))
        with pytest.raises(CheckpointError, match=r"a checkpoint in .* cannot be written: .*File too large"):
            full.close()
    with TrainCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract_state(MODEL, OPTIMIZER)).step == 0
        checkpoints.save(state.replace(step=state.step + 4))
    with TrainCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract_state(MODEL, OPTIMIZER)).step == 4
