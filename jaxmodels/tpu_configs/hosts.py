"""Several processes that run one program, each on its own devices: how they find each other, and how they
end.

Each process runs the same command. It learns who it is from three variables of the environment,

    JAX_COORDINATOR_ADDRESS=10.0.0.1:1234     a free port of the host of process 0
    JAX_NUM_PROCESSES=4
    JAX_PROCESS_ID=0                          another one in each process, from 0 on

or, with ``JAXMODELS_HOSTS=auto``, from what starts it where `jax.distributed` knows that by itself: Cloud
TPU, GKE, Slurm, Open MPI.

A process that is lost would leave the others waiting in a collective for ever. So each tells the coordinator
that it is there, and looks whether the others have: where one has ended, or has not been heard of for some
time, the others say so and end too. Started again, all of them, a training run goes on from its checkpoint.
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from jaxmodels.checks import number, shown, whole

COORDINATOR, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
DETECTED = "JAXMODELS_HOSTS"
# The exit status of a process that ends because another one did.
LOST_ANOTHER = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed another time
# Seconds that a process may take to come, and to be silent.
PATIENCE_TO_CONNECT, PATIENCE = 300.0, 60.0

_BEATS, _ENDS = "jaxmodels/beats/", "jaxmodels/ends/"
_DONE = "done"
_DAY = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Who a process is among those that run one program.

    Attributes:
        coordinator: "host:port", where process 0 listens to the others.
        count: processes in all.
        number: which of them this is, from 0 on.

    Raises:
        ValueError: an address without a port, a count below 1, or a number that is not below the count.
    """

    coordinator: str
    count: int
    number: int

    def __post_init__(self) -> None:
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(
                f"coordinator must be the address of process 0 with a free port of its host, such as "
                f"'10.0.0.1:1234', got {shown(self.coordinator)}"
            )
        count = whole("the number of processes", self.count, low=1)
        whole(f"the number of this process, of {count} counted from 0,", self.number, high=count - 1)


def hosts_of(environment: Mapping[str, str]) -> Hosts | None:
    """Who this process is by its environment; None where the variables are not set.

    Raises:
        ValueError: some of them are missing, or one has no meaning; the message names it.
    """
    names = (COORDINATOR, COUNT, NUMBER)
    given = {name: environment[name] for name in names if environment.get(name)}
    if not given:
        return None
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, but not "
            f"{' and '.join(missing)}: set all three, or none to run in one process"
        )
    sizes = {}
    for name in (COUNT, NUMBER):
        if not given[name].isdecimal():
            raise ValueError(f"{name} must be a whole number, got {given[name]!r}")
        sizes[name] = int(given[name])
    try:
        return Hosts(coordinator=given[COORDINATOR], count=sizes[COUNT], number=sizes[NUMBER])
    except ValueError as error:
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(f"{told}: {error}") from None


@contextmanager
def connected(
    hosts: Hosts | None = None,
    *,
    patience_to_connect: float = PATIENCE_TO_CONNECT,
    patience: float = PATIENCE,
) -> Iterator[None]:
    """Within it, this process is one of several: ``jax.devices()`` are those of all.

    To be entered before anything is computed. Where the body raises, the other processes are told, and end;
    where another process ends or falls silent, this one prints which and ends with status `LOST_ANOTHER`.

    Args:
        hosts: who this process is; by default what the environment says, which may be that it is alone.
        patience_to_connect: seconds to wait for all processes to come.
        patience: seconds after which a process that is not heard of counts as lost.

    Raises:
        ValueError: the environment is not understood, or something has been computed already.

    Where the processes do not all come, JAX ends each of them, and this says why.
    """
    patience = number("patience", patience, low=1)
    number("patience_to_connect", patience_to_connect, low=1)
    detected = os.environ.get(DETECTED, "")
    if detected not in ("", "auto"):
        raise ValueError(f"{DETECTED} must be 'auto' or not set, got {detected!r}")
    if hosts is None and not detected:
        hosts = hosts_of(os.environ)
    if hosts is None and not detected:
        yield
        return
    _connect(hosts, patience_to_connect, patience)
    watch = _Watch(patience)
    watch.begin()
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            watch.finish()
        else:
            watch.fail(error)
        raise
    watch.finish()


def _connect(hosts: Hosts | None, patience_to_connect: float, patience: float) -> None:
    import jax

    where = "the processes" if hosts is None else f"the {hosts.count} processes at {hosts.coordinator}"
    apart = (
        f"{where} did not find each other within {patience_to_connect:g} s; see that all of them were "
        f"started, with the same address of process 0 ({COORDINATOR}) and number of processes ({COUNT}), "
        f"each with a {NUMBER} of its own"
    )
    known: dict[str, Any] = {}
    if hosts is not None:
        known = {
            "coordinator_address": hosts.coordinator,
            "num_processes": hosts.count,
            "process_id": hosts.number,
            "cluster_detection_method": "deactivate",
        }
    _tell_at_abort(f"jaxmodels: error: {apart}")
    try:
        jax.distributed.initialize(
            **known,
            initialization_timeout=int(patience_to_connect),
            # JAX's own watch goes by the clock, and aborts: it is for what this one does not notice.
            heartbeat_timeout_seconds=int(10 * patience),
            shutdown_timeout_seconds=_DAY,  # whoever is waited for is watched until then
        )
    except RuntimeError as error:
        if "before any JAX" in str(error) or "only be called once" in str(error):
            raise ValueError(
                "connected() must be entered once, before anything is computed: JAX has its devices already"
            ) from error
        raise ValueError(f"{apart} ({str(error)[:300]})") from error


def _sentence(reason: str, number: int) -> str:
    return (
        f"jaxmodels: error: {reason}; process {number} ends too. Start all of them again: a training run "
        "goes on from its last checkpoint"
    )


def _tell_at_abort(message: str) -> None:
    """Prints the message, and ends with `LOST_ANOTHER`, where JAX's runtime aborts the process.

    It does as soon as the connection to process 0 breaks, or the processes do not find each other, and tells
    Python nothing. The handler is one of C: Python's own run in the main thread, which waits for it.
    """

    def tell(_: int) -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(LOST_ANOTHER)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(tell)
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _handlers.append(handler)


# What C calls must not be collected.
_handlers: list[Any] = []


class _Watch:
    """The thread that tells the others of this process, and looks whether they are there."""

    def __init__(self, patience: float) -> None:
        from jax._src import distributed  # what `jax.distributed` holds has no public name

        state = distributed.global_state
        self._client: Any = state.client
        self._count, self._number = state.num_processes, state.process_id
        self._patience, self._every = patience, min(patience / 8, 5.0)
        self._has_failed = self._has_ended = False
        # What each process told last, and in how many looks since it has told nothing new. Looks are counted,
        # not seconds: a machine that stood still for a while has missed nothing.
        self._heard = {str(n): ("", 0) for n in range(self._count)}
        self._looks = 0
        self._thread = threading.Thread(target=self._watch, name="watch of processes", daemon=True)

    def begin(self) -> None:
        """Starts to watch."""
        _tell_at_abort(
            _sentence(
                "the runtime gave up, as a rule because process 0, which coordinates the others, has ended",
                self._number,
            )
        )
        self._thread.start()

    def finish(self) -> None:
        """Says that this process has come to its end, and waits for the others to come to theirs."""
        import jax

        self._set(_ENDS, _DONE)
        self._has_ended = True
        jax.distributed.shutdown()

    def fail(self, error: BaseException) -> None:
        """Says what this process ended with. When the interpreter ends, it waits for nobody.

        A collective also fails because another process is lost. So it waits until all others are heard of
        anew, behind the first look, which may find what they told before; of one that is not, the watch
        tells, and ends this process.
        """
        first = self._looks + 1
        while self._thread.is_alive() and max(self._silences().values(), default=0) >= self._looks - first:
            time.sleep(self._every / 4)
        self._has_failed, kind = True, type(error).__name__
        self._set(_ENDS, f"{kind}: {str(error)[:300]}" if str(error) else kind)
        # JAX would wait at the end until all processes have come to theirs, which they will not.
        atexit.register(self._leave, 1)

    def _watch(self) -> None:
        for beat in range(2**62):
            try:
                self._set(_BEATS, str(beat))
                beats, ends = self._all(_BEATS), self._all(_ENDS)
            except Exception as error:  # whatever the transport raises
                if self._has_ended:
                    return
                self._end(f"process 0, which coordinates the others, cannot be reached ({str(error)[:200]})")
            if self._has_failed:
                return
            for n, (last, silent) in self._heard.items():
                told = beats.get(n, last)
                self._heard[n] = (told, 0 if told != last else silent + 1)
            self._looks += 1
            for n, silent in self._silences().items():
                if n in ends and ends[n] != _DONE:
                    self._end(f"process {n} of {self._count} has ended: {ends[n]}")
                if n not in ends and silent * self._every > self._patience:
                    self._end(f"process {n} of {self._count} has not been heard of for {self._patience:g} s")
            time.sleep(self._every)

    def _silences(self) -> dict[str, int]:
        """For how many looks each other process has told nothing new."""
        return {n: silent for n, (_, silent) in self._heard.items() if n != str(self._number)}

    def _end(self, reason: str) -> NoReturn:
        print(_sentence(reason, self._number), file=sys.stderr, flush=True)
        self._leave(LOST_ANOTHER)

    def _leave(self, status: int) -> NoReturn:
        """Ends this process at once; process 0, with which the coordinator goes, once the others have."""
        until = time.monotonic() + 2 * self._every + 1
        try:
            self._set(_ENDS, "it had lost another one")
            while self._number == 0 and len(self._all(_ENDS)) < self._count and time.monotonic() < until:
                time.sleep(self._every / 4)
        except Exception:  # the coordinator is gone: there is nobody to wait for
            pass
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _set(self, kind: str, value: str) -> None:
        if kind == _BEATS or str(self._number) not in self._all(_ENDS):
            self._client.key_value_set(f"{kind}{self._number}", value, allow_overwrite=True)

    def _all(self, kind: str) -> dict[str, str]:
        """What processes have told, by their number."""
        return {key.rsplit("/", 1)[1]: value for key, value in self._client.key_value_dir_get(kind)}
