import numpy as np
import pytest

from jaxmodels.training.data import Batches, load_tokens, read_text, resolve_files
from jaxmodels.training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def add(a, b):\n    return a + b\n" * 3], 270)


def test_batches_depend_only_on_seed_step_and_data():
    tokens = np.arange(1000, dtype=np.uint16)
    batches = Batches(tokens=tokens, batch_size=3, sequence_length=16, seed=5)
    in_order = [batches(i) for i in range(60)]
    fresh = Batches(tokens=tokens, batch_size=3, sequence_length=16, seed=5)
    for i in (47, 3, 59, 0):
        np.testing.assert_array_equal(fresh(i), in_order[i])
    other = Batches(tokens=tokens, batch_size=3, sequence_length=16, seed=6)
    assert not np.array_equal(other(0), in_order[0])
    assert in_order[0].shape == (3, 16)
    assert in_order[0].dtype == np.int32


@pytest.mark.parametrize("length", [8, 15, 16, 100, 101, 107])
def test_an_epoch_visits_disjoint_windows_and_changes_phase(length):
    batches = Batches(tokens=np.arange(length), batch_size=1, sequence_length=8, seed=1)
    per_epoch = batches.windows_per_epoch
    phases = set()
    for epoch in range(20):
        windows = np.concatenate([batches(epoch * per_epoch + i) for i in range(per_epoch)])
        starts = np.sort(windows[:, 0])
        np.testing.assert_array_equal(np.diff(starts), 8)
        np.testing.assert_array_equal(windows, windows[:, :1] + np.arange(8))
        phases.add(int(starts[0]))
    # every phase leaves room for all windows, and short streams have only the phases that fit
    possible = min(8, length - 8 * per_epoch + 1)
    assert (len(phases) > 1) == (possible > 1)
    assert max(phases) < possible


def test_a_batch_may_straddle_epochs():
    batches = Batches(tokens=np.arange(40), batch_size=3, sequence_length=8, seed=0)
    assert batches.windows_per_epoch == 4
    rows = np.concatenate([batches(i) for i in range(4)])
    for epoch in range(3):
        assert len(set(rows[4 * epoch : 4 * epoch + 4, 0])) == 4


def test_documents_are_joined_with_end_of_text(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("return a")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("x <|endoftext|>\n")
    tokens = load_tokens(resolve_files([str(tmp_path)]), 270, tokenizer)
    assert (tokens == 0).sum() == 3
    first, empty, last, rest = np.split(tokens, np.flatnonzero(tokens == 0) + 1)
    assert tokenizer.decode(first.tolist()) == "return a"
    assert empty.tolist() == [0]
    assert tokenizer.decode(last.tolist()) == "x <|endoftext|>\n"  # spelled out, not the separator
    assert rest.size == 0


def test_token_files(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5))
    np.arange(5, 9, dtype="<u2").tofile(tmp_path / "b.bin")
    tokens = load_tokens(resolve_files([str(tmp_path / "*.npy"), str(tmp_path / "*.bin")]), 9)
    np.testing.assert_array_equal(tokens, np.arange(9))
    (alone,) = resolve_files([str(tmp_path / "b.bin")])
    assert isinstance(load_tokens([alone], 9), np.memmap)


def test_files_are_kept_once_and_sorted(tmp_path):
    for name in ("b.py", "a.py", "c.txt"):
        (tmp_path / name).write_text("x")
    files = resolve_files([str(tmp_path / "*.py"), str(tmp_path)])
    assert [f.name for f in files] == ["a.py", "b.py", "c.txt"]


def test_bad_input_is_named(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match=r"\*\.nothing"):
        resolve_files([str(tmp_path / "*.nothing")])
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt.*UTF-8.*0xe9 at offset 3"):
        read_text(latin)
    text = tmp_path / "a.txt"
    text.write_text("x")
    with pytest.raises(ValueError, match=r"a\.txt.*tokenizer"):
        load_tokens([text], 300)
    with pytest.raises(ValueError, match=r"a\.txt.*ids must be in 0\.\.9"):
        load_tokens([text], 10, tokenizer)
    np.save(tmp_path / "high.npy", np.array([1, 70000]))
    with pytest.raises(ValueError, match=r"high\.npy.*70000"):
        load_tokens([tmp_path / "high.npy"], 300)
    np.save(tmp_path / "negative.npy", np.array([1, -1]))
    with pytest.raises(ValueError, match=r"negative\.npy.*-1"):
        load_tokens([tmp_path / "negative.npy"], 300)
    np.save(tmp_path / "float.npy", np.ones(4))
    with pytest.raises(ValueError, match=r"float\.npy.*float64"):
        load_tokens([tmp_path / "float.npy"], 300)
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"odd\.bin.*3 bytes"):
        load_tokens([tmp_path / "odd.bin"], 300)
    with pytest.raises(ValueError, match=r"15 tokens.*sequence_length=16"):
        Batches(tokens=np.arange(15), batch_size=1, sequence_length=16)
    with pytest.raises(ValueError, match="no tokens"):
        load_tokens([], 300)
