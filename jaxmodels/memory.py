"""How much memory is free, asked before something large is allocated."""

from pathlib import Path

import jax

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")


def check_fits(what: str, num_bytes: int) -> None:
    """Raises ValueError if an array of so many bytes, or several together, cannot be allocated.

    Args:
        what: what the bytes are for, with the argument or key that their number follows from.
        num_bytes: bytes on the default device.
    """
    free = free_bytes()
    if free is not None and num_bytes > free:
        raise ValueError(
            f"{what} needs {num_bytes:,} bytes ({_readable(num_bytes)}), but {free:,} bytes "
            f"({_readable(free)}) of memory are free on {jax.default_backend()}"
        )


def free_bytes() -> int | None:
    """Bytes that can still be allocated on the default device, None where that cannot be told.

    On CPU it is the least of what the system, the container and the limit of address space leave;
    elsewhere what the device's allocator leaves.
    """
    if jax.default_backend() == "cpu":
        known = [
            free for free in (_free_of_system(), _free_of_group(), _free_of_process()) if free is not None
        ]
        return min(known, default=None)
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return int(statistics["bytes_limit"]) - int(statistics.get("bytes_in_use", 0))


def _free_of_system() -> int | None:
    """What Linux can give without swapping others out, and the free swap space."""
    try:
        fields = _fields(_MEMINFO)
        return 1024 * (int(fields["MemAvailable"].split()[0]) + int(fields["SwapFree"].split()[0]))
    except (OSError, KeyError, ValueError):
        return None


def _free_of_group() -> int | None:
    """What the limit of a container leaves, the pages of files that it may drop included."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        droppable = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return max(0, int(limit) - used + droppable)
    except (OSError, ValueError, StopIteration):
        return None


def _free_of_process() -> int | None:
    """What the limit of the process' address space leaves, where the system has such limits."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        return max(0, limit - 1024 * int(_fields(_STATUS)["VmSize"].split()[0]))
    except (OSError, KeyError, ValueError):
        return None


def _fields(file: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)


def _readable(num_bytes: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes} B"
