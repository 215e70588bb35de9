"""Replacing a checkpoint directory, or a file, so that a crash at any instant leaves one that loads.

A save writes into a fresh sibling, `.NAME.tmp-RANDOM`, and then swaps it with the old directory. On Linux the
swap is one system call (`renameat2` with `RENAME_EXCHANGE`); elsewhere it is two renames, the old directory
being `.NAME.previous` in between, and `recover`, which loaders call, moves it back after a crash there.

A checkpoint is replaced as a whole: files of the old one (`CHECKPOINT_FILES`) that the new one does not
write are gone afterwards, so that no stale tokenizer or shard is taken for part of it. Everything else that
the user keeps in the directory (a README, logs, subdirectories) stays: it is hard-linked into the new
directory before the swap.
"""

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import expanded, mode_of, told_by_name
from jaxmodels.checkpoints.locks import exclusive_lock, has_locks, try_lock

# What belongs to a checkpoint, at the top of its directory.
CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-?????-of-?????.bin",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "checksums.json",
)
CHECKPOINT_DIRECTORIES = ("additional_chat_templates", "extra_tensors")
# The parameters in Orbax's form: a directory of this name with one of its own files in it. Any other such
# directory is the user's, a step of a training run for instance.
ORBAX_DIRECTORY = "params"
ORBAX_MARKERS = ("_CHECKPOINT_METADATA", "_METADATA")

# How long a save waits for loads of the directory that it replaces; those that take longer read again.
_READERS_SECONDS = 10.0
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}  # the file system cannot


@contextmanager
def replace_directory(path: str | os.PathLike[str], also_replaced: Collection[str] = ()) -> Iterator[Path]:
    """Yields a fresh directory that takes the place of `path` when the block ends without an exception.

    Until then `path` is untouched; afterwards the new content is on the disk (fsync). A process killed at any
    instant leaves either the old content or the new. The directories that killed processes left behind are
    removed by the next save to the same path; those of saves still running are not.

    Args:
        path: the checkpoint directory, which need not exist; a symbolic link to one is followed.
        also_replaced: patterns for further names, at the top of the directory, that belong to the checkpoint:
            like `CHECKPOINT_FILES` and Orbax's directory, they are not carried over from the old directory.

    Raises:
        CheckpointError: `path` is a file, or contains the working directory, or cannot be written or swapped;
            the old content is then as it was.
    """
    target = check_replaceable(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        _remove_abandoned(target)
        temporary, lock = _locked_sibling(target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error}") from error
    try:
        yield temporary
        try:
            _sync_tree(temporary)
            if target.is_dir():
                _take_over(temporary, target, also_replaced)
            else:
                os.rename(temporary, target)
            _sync_directory(target.parent)
        except OSError as error:
            raise CheckpointError(f"{target} cannot be replaced: {error}") from error
    finally:
        if lock is not None:  # after the swap it is on the new directory, for which readers wait
            os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)  # what a failed save has written


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole or, where that fails or the process is killed, as it was before.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def recover(path: str | os.PathLike[str]) -> None:
    """Moves the previous checkpoint back to `path` if a save was killed between its two renames.

    Does nothing when `path` exists or when there is nothing to move back. Loaders call it first.
    """
    target = Path(os.path.realpath(expanded(path)))
    if not target.exists() and _previous(target).is_dir():
        with suppress(FileNotFoundError):  # another loader was faster
            os.rename(_previous(target), target)


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def check_replaceable(path: str | os.PathLike[str]) -> Path:
    """The directory that `replace_directory` would write, symbolic links followed.

    Raises:
        CheckpointError: as `replace_directory`, as far as can be told before anything is written.
    """
    target = Path(os.path.realpath(expanded(path)))
    with told_by_name(target):
        mode = mode_of(target)
    if mode and not stat.S_ISDIR(mode):
        raise CheckpointError(f"{target} is a file; a checkpoint is saved to a directory")
    if Path(os.path.realpath(os.curdir)).is_relative_to(target):
        raise CheckpointError(
            f"{target} is the working directory or contains it, and saving replaces the whole directory; "
            "save to a directory below it"
        )
    return target


def _locked_sibling(target: Path) -> tuple[Path, int | None]:
    """A new temporary directory beside `target`, and the descriptor whose lock says that its owner lives."""
    while True:
        made = target.with_name(f".{target.name}.tmp-{secrets.token_hex(6)}")
        made.mkdir()
        if not has_locks():
            return made, None
        with suppress(FileNotFoundError):  # another save took it for abandoned before the lock: make another
            lock = os.open(made, os.O_RDONLY)
            is_ours = True
            with suppress(OSError):  # a file system without locks
                is_ours = try_lock(lock)
            if is_ours and made.exists():
                return made, lock
            os.close(lock)


def _remove_abandoned(target: Path) -> None:
    """Removes what killed saves to `target` left: temporaries, and a backup that is no longer needed."""
    for sibling in target.parent.iterdir():
        if sibling.name.startswith(f".{target.name}.tmp-") and _is_abandoned(sibling):
            shutil.rmtree(sibling, ignore_errors=True)
    if target.exists():
        shutil.rmtree(_previous(target), ignore_errors=True)


def _is_abandoned(temporary: Path) -> bool:
    if not has_locks():  # every temporary of an earlier save counts as such
        return True
    try:
        lock = os.open(temporary, os.O_RDONLY)
    except OSError:
        return False
    try:
        return try_lock(lock)
    except OSError:  # the file system has no locks: leave it
        return False
    finally:
        os.close(lock)


def _take_over(new: Path, target: Path, also_replaced: Collection[str]) -> None:
    """Swaps the directories, with the user's own entries in both, also those that appear meanwhile."""
    written = {entry.name for entry in new.iterdir()}
    shutil.copymode(target, new)
    with exclusive_lock(target, _READERS_SECONDS):
        _carry_over(target, new, written, also_replaced)
        replaced = _swap(new, target)
        _carry_over(replaced, target, written, also_replaced)
    shutil.rmtree(replaced, ignore_errors=True)


def _carry_over(old: Path, new: Path, written: Collection[str], also_replaced: Collection[str]) -> None:
    """Links the user's own entries of `old` into `new`; what the save wrote wins over what is there."""
    patterns = [*CHECKPOINT_FILES, *CHECKPOINT_DIRECTORIES, *also_replaced]
    for entry in old.iterdir():
        is_checkpoint = any(fnmatchcase(entry.name, pattern) for pattern in patterns)
        is_orbax = entry.name == ORBAX_DIRECTORY and any(
            (entry / marker).exists() for marker in ORBAX_MARKERS
        )
        if not is_checkpoint and not is_orbax and entry.name not in written:
            _link_newer(entry, new / entry.name)


def _link_newer(source: Path, destination: Path) -> None:
    """Links a file, or all files of a directory, where there is no such file or an older one."""
    with suppress(FileNotFoundError):  # its owner removed it: then there is nothing to link
        if source.is_dir() and not source.is_symlink():
            if not destination.exists():
                destination.mkdir()
                shutil.copystat(source, destination)
            for entry in source.iterdir():
                _link_newer(entry, destination / entry.name)
            return
        if os.path.lexists(destination):
            if os.lstat(source).st_mtime_ns <= os.lstat(destination).st_mtime_ns:
                return
            os.unlink(destination)
        _link_or_copy(source, destination)


def _link_or_copy(source: str | Path, destination: str | Path) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, destination, follow_symlinks=False)


def _swap(new: Path, target: Path) -> Path:
    """Puts `new` at `target`; gives the path that the old directory has then."""
    if _exchange(new, target):
        return new
    previous = _previous(target)
    os.rename(target, previous)
    try:
        os.rename(new, target)
    except OSError:
        recover(target)
        raise
    return previous


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two directories in one step; False where the system or the file system cannot.

    Raises:
        OSError: the swap failed for any other reason.
    """
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def _sync_tree(directory: Path) -> None:
    for root, _, files in os.walk(directory):
        for name in files:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_directory(Path(root))


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can sync a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
