"""A checkpoint directory is replaced whole: after a SIGKILL anywhere, what is there still loads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxmodels.checkpoints import atomic
from jaxmodels.checkpoints.atomic import recover, replace_directory
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorToWrite, open_tensors, write_tensors


def save(path: Path, value: int) -> None:
    tensors = [
        TensorToWrite(name=f"t{i}", shape=(64,), dtype=np.int64, read=lambda: np.full(64, value))
        for i in range(3)
    ]
    with replace_directory(path) as directory:
        write_tensors(directory, tensors, max_shard_bytes=512)


def interrupted_save(path: Path) -> None:
    with replace_directory(path) as directory:
        (directory / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt


def load(path: Path) -> int:
    recover(path)
    files = open_tensors(path)
    values = {int(value) for name in files.infos for value in files.read(name)}
    assert len(files.infos) == 3
    assert len(values) == 1, "a mixture of two checkpoints"
    return values.pop()


def leftovers(path: Path) -> list[str]:
    return sorted(sibling.name for sibling in path.parent.iterdir() if sibling.name != path.name)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)


@pytest.fixture(params=["exchange", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        without_exchange(monkeypatch)
    return str(request.param)


@pytest.mark.usefixtures("swap")
def test_saves_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "ckpt"
    save(path, 1)
    assert load(path) == 1
    save(path, 2)
    assert load(path) == 2
    assert leftovers(path) == []


@pytest.mark.usefixtures("swap")
def test_an_exception_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    save(path, 1)
    with pytest.raises(KeyboardInterrupt):
        interrupted_save(path)
    assert load(path) == 1
    assert leftovers(path) == []


def test_the_platform_exchanges(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is a Linux system call")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert atomic._exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    with pytest.raises(FileNotFoundError):
        atomic._exchange(tmp_path / "a", tmp_path / "absent")


@pytest.mark.usefixtures("swap")
def test_the_users_own_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    save(path, 1)
    (path / "README.md").write_text("mine")
    (path / "logs" / "deep").mkdir(parents=True)
    (path / "logs" / "deep" / "events").write_text("also mine")
    (path / "latest").symlink_to("README.md")
    (path / "dangling").symlink_to("nowhere")
    (path / "model_old.safetensors").write_text("a copy of mine")
    (path / "params").mkdir()
    (path / "params" / "data").write_text("not Orbax's")
    save(path, 2)
    assert load(path) == 2
    assert (path / "README.md").read_text() == "mine"
    assert (path / "logs" / "deep" / "events").read_text() == "also mine"
    assert os.readlink(path / "latest") == "README.md"
    assert os.readlink(path / "dangling") == "nowhere"
    assert (path / "model_old.safetensors").exists()
    assert (path / "params" / "data").exists()


def test_files_of_the_old_checkpoint_go(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    path.mkdir()
    stale = ["pytorch_model.bin", "tokenizer.json", "model-00009-of-00009.safetensors", "extra.state"]
    for name in stale:
        (path / name).touch()
    with replace_directory(path, also_replaced=["*.state"]) as directory:
        (directory / "config.json").write_text("{}")
    assert [entry.name for entry in path.iterdir()] == ["config.json"]


def test_parameters_that_orbax_wrote_go(tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("orbax.checkpoint")
    path = tmp_path / "ckpt"
    with checkpoint.StandardCheckpointer() as checkpointer:
        for name in ("params", "step-100"):
            checkpointer.save(path / name, {"w": np.zeros(3, np.float32)})
        checkpointer.wait_until_finished()
    assert (path / "params").is_dir()
    save(path, 1)
    assert load(path) == 1
    assert not (path / "params").exists()
    assert any((path / "step-100").iterdir())  # not what a save writes: the user's


def test_users_files_survive_where_hard_links_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError("no hard links here")

    path = tmp_path / "ckpt"
    save(path, 1)
    (path / "README.md").write_text("mine")
    monkeypatch.setattr(os, "link", no_links)
    save(path, 2)
    assert (path / "README.md").read_text() == "mine"


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    save(path, 1)
    fresh = tmp_path / "plain"
    fresh.mkdir()
    assert path.stat().st_mode == fresh.stat().st_mode
    path.chmod(0o750)
    save(path, 2)
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    save(tmp_path / "step-1", 1)
    (tmp_path / "latest").symlink_to("step-1")
    save(tmp_path / "latest", 2)
    assert (tmp_path / "latest").is_symlink()
    assert load(tmp_path / "step-1") == 2


def test_refuses_a_file_and_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file is a file"):
        save(tmp_path / "file", 1)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path / "file" / "below", 1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(), tmp_path):
        with pytest.raises(CheckpointError, match="working directory"):
            save(path, 1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_second_rename_puts_the_old_content_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ckpt"
    save(path, 1)
    without_exchange(monkeypatch)
    rename = os.rename

    def failing(source: Path, destination: Path) -> None:
        if ".tmp-" in Path(source).name:
            raise OSError("no second rename")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(CheckpointError, match=r"ckpt cannot be replaced: no second rename"):
        save(path, 2)
    assert load(path) == 1
    assert leftovers(path) == []


def test_a_running_save_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    with replace_directory(path) as slow:
        (slow / "note").write_text("slow")
        save(path, 1)
        assert load(path) == 1
    assert (path / "note").read_text() == "slow"
    assert leftovers(path) == []


SLOW_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.safetensors_io import TensorToWrite, write_tensors

def read():
    print("writing", flush=True)
    time.sleep(60 if int(sys.argv[2]) == 0 else 0)
    sys.argv[2] = str(int(sys.argv[2]) - 1)
    return np.zeros(64, np.int64)

tensors = [TensorToWrite(name=f"t{i}", shape=(64,), dtype=np.int64, read=read) for i in range(3)]
with replace_directory(Path(sys.argv[1])) as directory:
    write_tensors(directory, tensors, max_shard_bytes=1024)
"""


@pytest.mark.parametrize("tensors_before", [0, 2])
def test_killed_from_outside_while_writing(tmp_path: Path, tensors_before: int) -> None:
    path = tmp_path / "ckpt"
    save(path, 1)
    command = [sys.executable, "-c", SLOW_WRITER, str(path), str(tensors_before)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(tensors_before + 1):
            assert writer.stdout.readline() == "writing\n"
        time.sleep(0.05)
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    assert load(path) == 1
    assert len(leftovers(path)) == 1
    save(path, 2)
    assert load(path) == 2
    assert leftovers(path) == []


# Forks a child per instant: child k kills itself at the k-th event of a save: any file operation
# that Python audits, or a line of the swap. The parent checks what is left after each.
KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from test_atomic import atomic, load, save

path, swap = Path(sys.argv[1]), sys.argv[2]
if swap == "two renames":
    atomic._exchange = lambda first, second: False

def die_at(event):
    left = event
    def count(*_):
        nonlocal left
        left -= 1
        if left == -1:  # os.kill is audited too
            os.kill(os.getpid(), signal.SIGKILL)
    def trace(frame, kind, argument):
        if frame.f_code.co_name not in ("_swap", "_exchange") or frame.f_code.co_filename != atomic.__file__:
            return None
        count()
        return trace
    def audit(event, _):
        if event == "open" or event.startswith(("os.", "shutil.", "fcntl.")):
            count()
    sys.settrace(trace)
    sys.addaudithook(audit)

save(path, 0)
(path / "README.md").write_text("mine")
value, event, old, new = 0, 0, 0, 0
while True:
    child = os.fork()
    if child == 0:
        die_at(event)
        save(path, value + 1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found = load(path)
    assert found in (value, value + 1), (event, value, found)
    assert (path / "README.md").read_text() == "mine", event
    old, new = old + (found == value), new + (found == value + 1)
    value = found
    if not os.WIFSIGNALED(status):
        assert status == 0
        break
    event += 1
left = sorted(sibling.name for sibling in path.parent.iterdir())
assert left == [path.name], left
print(old, new)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("swap_kind", ["exchange", "two renames"])
def test_killed_at_every_instant(tmp_path: Path, swap_kind: str) -> None:
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "ckpt"), swap_kind]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    kept_old, found_new = map(int, done.stdout.split())
    assert kept_old > 30  # killed before the swap
    assert found_new > 3  # killed after it


def put_new(path: Path) -> None:
    with replace_directory(path) as directory:
        (directory / "config.json").write_text("new")


@pytest.mark.usefixtures("swap")
def test_what_appears_during_a_save_stays(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    (path / "logs").mkdir(parents=True)
    with replace_directory(path) as directory:
        (directory / "config.json").write_text("new")
        (path / "README.md").write_text("mine")
        (path / "logs" / "events").write_text("mine")
    assert (path / "README.md").read_text() == "mine"
    assert (path / "logs" / "events").read_text() == "mine"
    assert leftovers(path) == []


@pytest.mark.usefixtures("swap")
def test_what_appears_at_the_swap_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ckpt"
    (path / "logs").mkdir(parents=True)
    (path / "notes").write_text("old")
    swap = atomic._swap

    def late(new: Path, target: Path) -> Path:
        (target / "README.md").write_text("mine")
        (target / "logs" / "events").write_text("mine")
        (target / "notes.new").write_text("replaced")
        os.replace(target / "notes.new", target / "notes")
        return swap(new, target)

    monkeypatch.setattr(atomic, "_swap", late)
    put_new(path)
    assert (path / "config.json").read_text() == "new"
    for file in ("README.md", "logs/events"):
        assert (path / file).read_text() == "mine"
    assert (path / "notes").read_text() == "replaced"
    assert leftovers(path) == []
