"""Checksums of a checkpoint's files, written beside them and compared on load: a changed byte is noticed.

``checksums.json`` gives for each file that a save wrote its size, and the CRC-32 of each piece of it, so that
several cores share the work:

    {"algorithm": "crc32", "piece_bytes": 16777216,
     "files": {"config.json": {"size": 703, "pieces": ["9ae0daaf"]}}}

CRC-32 notices whatever changes within 32 bits of a piece, and of larger damage all but one in 2 ** 32. It is
no protection against intent. Files that are not listed are the user's own.
"""

import json
import os
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import open_file, read_json_object, told_by_name
from jaxmodels.checks import shown, whole

MANIFEST_FILE = "checksums.json"
_ALGORITHM = "crc32"
_PIECE_BYTES = 16 * 2**20
_READ_BYTES = 2**20  # stays in a core's cache between reading and summing
# Who maps the same files needs no core of its own. Without reads at a position, threads cannot share a file.
_WORKERS = min(4, os.cpu_count() or 1) if hasattr(os, "preadv") else 1


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One file of a manifest, open.

    Attributes:
        path: of the file.
        file: the file itself.
        size: bytes that it should have.
        pieces: the checksum that each piece should have, in hexadecimal digits.
        piece_bytes: of every piece but the last.
    """

    path: Path
    file: BinaryIO
    size: int
    pieces: tuple[str, ...]
    piece_bytes: int

    def check(self, number: int) -> None:
        """Raises `CheckpointError` where a piece differs, or the size."""
        start = number * self.piece_bytes
        with told_by_name(self.path):
            size = os.fstat(self.file.fileno()).st_size
            if size != self.size:
                raise self._differs(f"has {size} bytes and had {self.size}")
            if _checksum(self.file, start, self.piece_bytes) != self.pieces[number]:
                end = min(start + self.piece_bytes, size)
                raise self._differs(f"has other bytes between {start} and {end}")

    def _differs(self, how: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is not the file that was saved: it {how}. Fetch or write it again; if you changed "
            f"it yourself, delete {MANIFEST_FILE}, or pass verify=False (--no-verify)"
        )


@dataclass(frozen=True)
class Verification:
    """The files of a manifest, to be compared with it; made by `open_verification`."""

    listed: Sequence[ListedFile] = field(repr=False)

    def __post_init__(self) -> None:
        for one in self.listed:
            weakref.finalize(self, one.file.close)

    def check_small(self) -> None:
        """Compares the files of one piece, among them those that say what the others mean.

        Raises:
            CheckpointError: a file differs; names it.
        """
        for one in self.listed:
            if len(one.pieces) == 1:
                one.check(0)

    @contextmanager
    def checking_large(self) -> Iterator[None]:
        """Compares the other files on other cores while the block reads them; both are done at its end.

        Raises:
            CheckpointError: a file differs; names it, also where the block failed for that reason.
        """
        large = [(one, i) for one in self.listed if len(one.pieces) > 1 for i in range(len(one.pieces))]
        with ThreadPoolExecutor(_WORKERS, "verify") as pool:
            checks = [pool.submit(one.check, i) for one, i in large]
            try:
                yield
            except CheckpointError:
                _wait(checks)
                raise
            except BaseException:
                for check in checks:
                    check.cancel()
                raise
            _wait(checks)


def open_verification(directory: Path) -> Verification:
    """Opens the files that a checkpoint's manifest lists; none where there is no manifest.

    Raises:
        CheckpointError: the manifest is corrupt, or a file that it lists is absent or cannot be opened.
    """
    manifest = directory / MANIFEST_FILE
    if not os.path.lexists(manifest):
        return Verification(())
    values = read_json_object(manifest)
    if values.get("algorithm") != _ALGORITHM:
        raise CheckpointError(
            f"{manifest}: algorithm is {shown(values.get('algorithm'))}; only {_ALGORITHM!r} is read"
        )
    files = values.get("files")
    if not isinstance(files, Mapping):
        raise CheckpointError(f"{manifest}: files is {shown(files)}; it must map file names to checksums")
    try:
        piece_bytes = whole("piece_bytes", values.get("piece_bytes"), low=1)
        return Verification([_open(directory, name, entry, piece_bytes) for name, entry in files.items()])
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{manifest}: {error}") from error


def write_manifest(directory: Path) -> None:
    """Writes the manifest of everything that a directory holds."""
    with ThreadPoolExecutor(_WORKERS, "checksum") as pool:
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        files = {path.relative_to(directory).as_posix(): _describe(path, pool) for path in paths}
    values = {"algorithm": _ALGORITHM, "piece_bytes": _PIECE_BYTES, "files": files}
    replace_file(directory / MANIFEST_FILE, json.dumps(values, indent=1) + "\n")


def _describe(path: Path, pool: ThreadPoolExecutor) -> dict[str, Any]:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        starts = range(0, max(size, 1), _PIECE_BYTES)
        pieces = list(pool.map(lambda start: _checksum(file, start, _PIECE_BYTES), starts))
    return {"size": size, "pieces": pieces}


def _open(directory: Path, name: str, entry: Any, piece_bytes: int) -> ListedFile:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        raise ValueError(f"files has the name {name!r}; each must be of a file in the directory")
    if not isinstance(entry, Mapping):
        raise ValueError(f"files[{name!r}] is {shown(entry)}; it must be an object with size and pieces")
    size = whole(f"size of {name!r}", entry.get("size"), high=2**63 - 1)
    pieces = entry.get("pieces")
    count = len(range(0, max(size, 1), piece_bytes))
    if not isinstance(pieces, list) or len(pieces) != count or not all(isinstance(p, str) for p in pieces):
        raise ValueError(f"pieces of {name!r} is {shown(pieces)}; it must list {count} checksums")
    path = directory / name
    try:
        file = open_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing, and {MANIFEST_FILE} lists it. Fetch it again; if you removed it yourself, "
            f"delete {MANIFEST_FILE}, or pass verify=False (--no-verify)"
        ) from error
    return ListedFile(path=path, file=file, size=size, pieces=tuple(pieces), piece_bytes=piece_bytes)


def _checksum(file: BinaryIO, start: int, length: int) -> str:
    """The CRC-32 of `length` bytes of a file, or of as many as it has."""
    buffer = memoryview(bytearray(min(_READ_BYTES, length)))
    total, done = 0, 0
    while done < length:
        got = _read_at(file, buffer[: length - done], start + done)
        if not got:
            break
        total, done = zlib.crc32(buffer[:got], total), done + got
    return f"{total:08x}"


def _read_at(file: BinaryIO, buffer: memoryview, start: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [buffer], start)
    file.seek(start)
    return file.readinto(buffer)  # type: ignore[attr-defined]


def _wait(checks: Sequence[Future[None]]) -> None:
    """Raises what the first failed check raises; the others are then not begun."""
    try:
        for check in checks:
            check.result()
    finally:
        for check in checks:
            check.cancel()
