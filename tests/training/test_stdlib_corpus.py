import pytest

from jaxmodels.training.stdlib_corpus import stdlib_split


def test_the_running_library_is_split_by_file():
    split = stdlib_split()
    assert not set(split.train) & set(split.held_out)
    names = {path.name for path in split.train}
    assert {"argparse.py", "dataclasses.py"} <= names
    held_out = sum(path.stat().st_size for path in split.held_out)
    train = sum(path.stat().st_size for path in split.train)
    assert 0.005 < held_out / train < 0.08
    for path in (*split.train, *split.held_out):
        assert "site-packages" not in path.parts
        assert "pydoc_data" not in path.parts


def test_unusable_files_are_left_out_and_the_split_is_stable(tmp_path):
    for i in range(200):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    before = stdlib_split(tmp_path)
    assert len(before.train) + len(before.held_out) == 200
    assert before.held_out
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "zz_copy.py").write_text("x = 7\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    for folder in ("site-packages", "encodings", "nested/__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text(f"folder = {folder!r}\n")
    assert stdlib_split(tmp_path) == before
    (tmp_path / "more.py").write_text("more = 1\n")
    after = stdlib_split(tmp_path)
    assert {*before.train, *before.held_out} < {*after.train, *after.held_out}
    assert set(before.held_out) <= set(after.held_out)


def test_an_empty_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Python sources"):
        stdlib_split(tmp_path)
