"""Child processes: one way to start them, for cells and for decode workers.

A child

- runs a function of an importable module and never re-imports the user's `__main__`, so that scripts without an
  `if __name__ == "__main__":` guard work;
- has the environment variables, the current directory and the import path that its owner has at that moment;
- ends with its owner, even if the owner is killed and the child is stopped, has only just been forked, or hangs in a library
  that holds the interpreter lock.

Children are forked from a fork server that has imported the costly modules once (`preload`); where the platform has no fork
server, each child is a fresh interpreter (`spawn`).

How children end with their owner on Linux: a fork server leads a process group, which everything that it forks, and whatever
these start, belongs to from birth. The owner alone holds the writing end of a pipe, its lifeline. When the owner ends,
however that happens, the kernel sends SIGKILL to the group (signal-driven I/O, see F_SETSIG and F_SETOWN in fcntl(2)); no code
of the group has to run for that. Unlike PR_SET_PDEATHSIG this depends neither on the thread that started a process nor on the
fork server. Elsewhere a thread of each child waits for the owner, which needs the interpreter lock.
"""

from __future__ import annotations

import contextlib
import errno
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from multiprocessing import connection, spawn, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from fsar_bench.errors import ProcessError
from fsar_bench.writing.faults import LIMITS
from fsar_bench.writing.temporary import temporary_folder

Method = Literal["forkserver", "spawn"]

DEFAULT_METHOD: Method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

FORK_SECONDS = 600.0  # time that a fork server may take to fork, the import of its modules included
LONGEST_FOLDER = 40  # bytes of the folder of temporary files: the path of a socket below ours has at most 107
# MMEngine asks torch for GPUs while it is imported; asked of CUDA itself, no process that is forked later could use one
LOOK_AT_GPUS = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
PAUSE = 0.2  # seconds between two looks at a stopped owner
END_SECONDS = 10.0  # time that a fork server may take to tell an exit code

_lock = threading.RLock()  # guards _servers and the functions of multiprocessing that are replaced during a start
_servers: dict[tuple[int, tuple[str, ...]], Any] = {}  # by owner (a fork copies this dict) and preloaded modules
_handles: weakref.WeakKeyDictionary[BaseProcess, int] = weakref.WeakKeyDictionary()  # pidfd of each child
_lifeline: list[int] = []  # both ends of the pipe that hangs up when this process ends


class StoppedError(Exception):
    """A conversation was ended by its brake."""


class Brake:
    """Ends the conversations of several threads at once: those that are held, and those that would begin."""

    def __init__(self) -> None:
        self.pulled, self._signal = pipe(duplex=False)  # it stays readable: nobody reads it

    def pull(self) -> None:
        """Kill the child of every conversation below `braked_by`, which raises `StoppedError`."""
        self._signal.send_bytes(b"stop")


_brake: ContextVar[Brake | None] = ContextVar("brake", default=None)
_ENDED = object()  # in place of a message of a child


def pipe(*, duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends, either of which may be an argument of `start`.

    Close the child's end in the owner after `start`: only then does the owner read the end of file when the child dies.

    Args:
        duplex: whether both ends send and receive; otherwise the first receives and the second sends.

    Raises:
        ProcessError: this process has too many open files.
    """
    with _limits_are_told():
        return multiprocessing.get_context(DEFAULT_METHOD).Pipe(duplex)


def anonymous_file(name: str) -> int:
    """Descriptor of a file in memory without a name in any folder, on Linux; `name` is for those who list descriptors.

    Raises:
        ProcessError: this process has too many open files.
    """
    with _limits_are_told():
        return os.memfd_create(name, os.MFD_CLOEXEC)


def start(
    target: Callable[..., object],
    args: tuple[Any, ...],
    *,
    preload: tuple[str, ...],
    daemon: bool = False,
    method: Method | None = None,
) -> BaseProcess:
    """Start a child process. May be called from any thread.

    Each tuple of preloaded modules has its own fork server, which is started once per owner and ends with it. One that dies
    is started again; if that dies too (a preloaded module may raise while it is imported), the child is spawned instead, so
    that `target` can report the error.

    Args:
        target: a module-level function outside `__main__`.
        args: its arguments; they are pickled.
        preload: modules that the fork server imports before it forks; those that are not installed are skipped.
        daemon: kill the child when the owner exits, instead of waiting for it; a daemonic child may start no processes.
        method: how the child is started; None takes "forkserver" where the platform has it, and "spawn" elsewhere.

    Returns:
        The started process; its `exitcode` is the negative signal number if a signal killed it.

    Raises:
        ValueError: `target` is defined in `__main__`, which children do not import.
        ProcessError: the system starts no more processes, or this one has too many open files.
    """
    if target.__module__ == "__main__":
        raise ValueError(f"{target.__qualname__} is defined in __main__. Move it to a module that children can import.")
    with _lock, _limits_are_told(), _tied_to_this_process():
        _use_own_folder()
        process = _start((_Environment(), target, args), preload, daemon=daemon, method=method)
        with contextlib.suppress(AttributeError, OSError):  # no Linux, or an old one; or it is dead already
            _handles[process] = handle = os.pidfd_open(process.pid or 0)
            weakref.finalize(process, os.close, handle).atexit = False  # pools may end their children later
    return process


def _start(arguments: tuple[Any, ...], preload: tuple[str, ...], *, daemon: bool, method: Method | None) -> BaseProcess:
    replacement = _preparation_data_without_main(spawn.get_preparation_data)
    with _replaced(spawn, "get_preparation_data", replacement):
        if (method or DEFAULT_METHOD) == "forkserver":
            for is_last in (False, True):
                try:
                    return _fork(arguments, preload, daemon=daemon)
                except (EOFError, ConnectionError):  # the fork server died
                    _end_server(preload)
                    if is_last and method is not None:
                        raise
        process = multiprocessing.get_context("spawn").Process(target=_enter, args=arguments, daemon=daemon)
        process.start()
        return process


def converse(
    target: Callable[..., object],
    args: tuple[Any, ...],
    hear: Callable[[Any], None],
    *,
    preload: tuple[str, ...],
    method: Method | None = None,
) -> int | None:
    """Run a function in a child and hear what it sends, until it ends; an interrupted owner kills it.

    Args:
        target: a module-level function outside `__main__`; the sending end of a connection is its last argument.
        args: its other arguments.
        hear: is given each message.
        preload: as in `start`.
        method: as in `start`.

    Returns:
        Its exit code.

    Raises:
        StoppedError: the brake of this thread was pulled.
    """
    return converse_with_all(target, [args], lambda _, message: hear(message), preload=preload, method=method)[0]


def converse_with_all(
    target: Callable[..., object],
    args: Sequence[tuple[Any, ...]],
    hear: Callable[[int, Any], None],
    *,
    preload: tuple[str, ...],
    method: Method | None = None,
) -> dict[int, int | None]:
    """Run a function in several children that need each other; as soon as one dies, all others are killed.

    Args:
        target: as for `converse`, as for what is not listed here.
        args: the other arguments of each child.
        hear: is given the number of a child, and each message that it sends.
        preload: as in `start`.
        method: as in `start`.

    Returns:
        Exit codes by number of the child, of those that were not killed here, in the order in which they ended.

    Raises:
        StoppedError: the brake of this thread was pulled.
    """
    talks: dict[int, tuple[Connection, BaseProcess]] = {}
    codes: dict[int, int | None] = {}
    try:
        for number, arguments in enumerate(args):
            ours, theirs = pipe(duplex=False)
            try:
                talks[number] = ours, start(target, (*arguments, theirs), preload=preload, method=method)
            finally:
                theirs.close()
        while talks and not any(codes.values()):
            for number, message in _messages(talks):
                if message is _ENDED:
                    codes[number] = _end(*talks.pop(number))
                else:
                    hear(number, message)
        return codes
    finally:
        for _, child in talks.values():
            kill(child)
        for ours, child in talks.values():
            _end(ours, child)


def _messages(talks: dict[int, tuple[Connection, BaseProcess]]) -> Iterator[tuple[int, Any]]:
    """A message of each child that has sent one, or `_ENDED` of one that has ended. Waits until there is one.

    Raises:
        StoppedError: the brake of this thread was pulled.
    """
    brake = _brake.get()
    ends: dict[Connection | int, int] = {}  # what tells of which child
    for number, (ours, child) in talks.items():
        ends[ours] = number
        if child in _handles:
            ends[_handles[child]] = number
    ready = connection.wait([*ends, *([brake.pulled] if brake else ())])
    if brake and brake.pulled in ready:
        raise StoppedError
    for number in {ends[end] for end in ready if isinstance(end, Connection | int)}:
        ours, _ = talks[number]
        message = _ENDED  # unless it has sent something; what it started may hold its end of the connection
        if ours in ready:
            with contextlib.suppress(EOFError, OSError):  # it ended, perhaps in the middle of a message
                message = ours.recv()
        yield number, message


def _end(ours: Connection, child: BaseProcess) -> int | None:
    """Exit code of a child that ends or has ended."""
    join(child)
    ours.close()
    return child.exitcode


@contextlib.contextmanager
def braked_by(brake: Brake) -> Iterator[None]:
    """Let a brake end the conversations of this thread."""
    token = _brake.set(brake)
    try:
        yield
    finally:
        _brake.reset(token)


def kill(process: BaseProcess) -> None:
    """Kill a child, without waiting for its end.

    multiprocessing takes a child whose fork server died for dead, and would send it nothing.
    """
    handle = _handles.get(process)
    if handle is None:
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


def join(process: BaseProcess) -> None:
    """Wait for the end of a child; its exit code remains unknown if its fork server is stopped, which would tell it."""
    handle = _handles.get(process)
    if handle is None:
        process.join()
    else:
        connection.wait([handle])
        with _lock:  # multiprocessing looks at all children when one is started, and an exit code can be read once
            process.join(END_SECONDS)


def is_stopped(process: BaseProcess) -> bool:
    """Whether a signal stopped a child (SIGSTOP), which does nothing until it is resumed; False where this is not known."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")


def wait_for_owner() -> None:
    """Wait while the owner of this process is stopped: what `suspend` stops does not reach the children of children."""
    owner = multiprocessing.parent_process()
    while owner is not None and is_stopped(owner):
        time.sleep(PAUSE)


def ending(exit_code: int | None) -> str:
    """How a process ended, such as "exit code -9: SIGKILL, out of memory?"."""
    if exit_code is None or exit_code == 255:  # multiprocessing also says 255 of a child whose fork server died
        return "an unknown exit code"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-exit_code).name
        return f"exit code {exit_code}: {name}{', out of memory?' if name == 'SIGKILL' else ''}"
    return f"exit code {exit_code}"


def suspend() -> None:
    """Stop this process and its children until it is resumed: what Ctrl-Z does in a terminal to a program without children.

    Fork servers lead process groups, which a terminal's Ctrl-Z does not reach.
    """
    _signal_servers(signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)  # goes on here when it is resumed
    _signal_servers(signal.SIGCONT)


def _signal_servers(number: int) -> None:
    """Send a signal to this process's fork servers and all that they forked."""
    for (owner, _), server in list(_servers.items()):
        if owner == os.getpid() and server._forkserver_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(server._forkserver_pid, number)


def is_warm(preload: tuple[str, ...]) -> bool:
    """Whether this process has a fork server that has imported these modules, or is importing them."""
    return (os.getpid(), preload) in _servers


def _fork(arguments: tuple[Any, ...], preload: tuple[str, ...], *, daemon: bool) -> BaseProcess:
    """Start a child from the fork server for these modules, without touching multiprocessing's own fork server.

    Raises:
        EOFError: the fork server died.
        ConnectionError: it died, or does not answer.
    """
    from multiprocessing import forkserver, resource_tracker

    key = (os.getpid(), preload)
    if key not in _servers:
        _servers[key] = forkserver.ForkServer()
        _servers[key].set_forkserver_preload(list(preload))
        _servers[key].ensure_running = lambda: None  # what follows is not repeated when it is connected to
    server = _servers[key]
    resource_tracker.ensure_running()  # its start would unblock the signal
    with _environment_of_server(), _without_ctrl_c():
        forkserver.ForkServer.ensure_running(server)  # starts it again if it died

    def connect(descriptors: Sequence[int]) -> tuple[int, int]:
        status, data = server.connect_to_new_process(descriptors)
        if not connection.wait([status], FORK_SECONDS):  # it sends the id of the child
            for descriptor in (status, data):
                os.close(descriptor)
            raise ConnectionError(f"The fork server did not answer within {FORK_SECONDS:g} s.")
        return status, data

    process = multiprocessing.get_context("forkserver").Process(target=_enter, args=arguments, daemon=daemon)
    with _replaced(forkserver, "connect_to_new_process", connect):
        process.start()
    return process


def _use_own_folder() -> None:
    """Let children keep temporary files, and multiprocessing its sockets, in one folder of ours, which is deleted with them.

    A child has no chance to delete its own when it is killed; some libraries make files as soon as they are imported. Children
    of children share the folder.
    """
    config = _config()
    if config.get("tempdir") is None and len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER:
        folder = config["tempdir"] = str(temporary_folder())
        util.Finalize(None, shutil.rmtree, args=[folder], kwargs={"ignore_errors": True}, exitpriority=-100)


def _config() -> dict[str, Any]:
    """What multiprocessing knows of this process, and passes on to its children."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # as its util does
    return config


def _for_children() -> dict[str, str]:
    """Environment variables that children have in addition to those of this process."""
    folder = {"TMPDIR": _config()["tempdir"]} if _config().get("tempdir") else {}
    return {**LOOK_AT_GPUS, **folder}


def _end_server(preload: tuple[str, ...]) -> None:
    """Kill a fork server that does not answer; one that is dying is not taken for alive then."""
    pid = _servers[os.getpid(), preload]._forkserver_pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # multiprocessing reaps it


@contextlib.contextmanager
def _limits_are_told() -> Iterator[None]:
    """Turn the errors of a system that gives no more processes or files into ours."""
    hints = {
        **LIMITS,
        errno.EAGAIN: "the limit of processes is reached: raise it (ulimit -u, or pids of the container), or lower workers=",
    }
    try:
        yield
    except OSError as error:
        hint = hints.get(error.errno or 0)
        if hint is None:
            raise
        raise ProcessError(f"Cannot start a process ({error.strerror}): {hint}.") from error


@contextlib.contextmanager
def _tied_to_this_process() -> Iterator[None]:
    """Tie what this thread starts through multiprocessing to this process; see the head of this module."""
    if sys.platform == "linux":
        with _replaced(util, "spawnv_passfds", _spawn_tied):
            yield
    else:
        yield


def _spawn_tied(path: str | bytes, args: list[str], descriptors: Sequence[int]) -> int:
    """Start a program that leads a process group, which the kernel ends with this process; returns its id.

    A resource tracker ends by itself after all processes that it works for, and cleans up then. It is only resumed.
    """
    import fcntl

    is_tracker = "multiprocessing.resource_tracker" in args[-1]
    if "multiprocessing.forkserver" in args[-1]:
        args = [*args[:-1], f"{_ONE_LINE}; {args[-1]}"]
    lines = _open_lifeline(signal.SIGCONT if is_tracker else signal.SIGKILL)
    try:
        child = subprocess.Popen(args, executable=path, pass_fds=[*descriptors, *lines], process_group=0)
        child.returncode = 0  # multiprocessing waits for it
        for line in lines:
            fcntl.fcntl(line, fcntl.F_SETOWN, -child.pid)
    finally:
        for line in lines:
            os.close(line)
    return child.pid


# A fork server that the system gives no more processes ends, and its owner tells why: it prints no traceback besides.
_ONE_LINE = "import sys; sys.excepthook = lambda kind, error, _: print(f'fork server: {kind.__name__}: {error}', file=sys.stderr)"


def _open_lifeline(number: int) -> list[int]:
    """The reading end of this process's lifeline, which sends a signal when it hangs up; nothing where the system has none.

    It is opened anew, because each opening sends its signal to one process or group.
    """
    import fcntl

    if not _lifeline:
        _lifeline.extend(os.pipe())
    try:
        line = os.open(f"/proc/self/fd/{_lifeline[0]}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # no /proc: the threads of the children remain
        return []
    try:
        fcntl.fcntl(line, fcntl.F_SETSIG, number)
        fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:  # a kernel without signal-driven I/O on pipes
        os.close(line)
        return []
    return [line]


def _forget_lifeline() -> None:
    """Close what a fork copied: a pipe hangs up when no process holds its writing end."""
    while _lifeline:
        os.close(_lifeline.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lifeline)


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Replace a function of a module for calls by this thread; other threads still get the original."""
    original, thread = getattr(module, name), threading.get_ident()

    def choose(*args: Any, **kwargs: Any) -> Any:
        return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

    setattr(module, name, choose)
    try:
        yield
    finally:
        setattr(module, name, original)


def _preparation_data_without_main(original: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """What multiprocessing tells a child about its owner, without the path of `__main__`, so that it is not imported."""

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        return {key: value for key, value in data.items() if not key.startswith("init_main_from")}

    return get_preparation_data


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Block SIGINT for what is started here, and for its children.

    A terminal sends Ctrl-C to every process. The owner answers it; a fork server that is still importing would only print a
    traceback, and the children end with their owner anyway.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment_of_server() -> Iterator[None]:
    """What a fork server needs before it is told its owner's environment, because it imports its modules: `sys.path` too."""
    before = dict(os.environ)
    ours = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path), **_for_children()}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


class _Environment:
    """The owner's environment variables when it is pickled; unpickling it in the child sets them.

    As the first argument of a child it is unpickled before the module of the target is imported, which may read them.
    """

    def __reduce__(self) -> tuple[Callable[..., None], tuple[dict[str, str]]]:
        return _set_environment, ({**os.environ, **_for_children()},)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _enter(_environment: None, target: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Body of every child."""
    _end_with_owner()
    for stream in (sys.stdout, sys.stderr):  # what a child prints goes to logs, which are UTF-8 whatever the locale
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    target(*args)


def _end_with_owner() -> None:
    """Arrange that this process ends when its owner does, on every platform; a process that hangs needs the lifeline."""
    owner = multiprocessing.parent_process()
    if owner is None:
        return
    with contextlib.suppress(RuntimeError):  # the limit of threads is reached
        threading.Thread(target=_exit_after, args=(owner,), name="end with owner", daemon=True).start()
    if not owner.is_alive():
        os._exit(1)


def is_child() -> bool:
    """Whether this process is a child."""
    return multiprocessing.parent_process() is not None


def silence() -> None:
    """Send what this process prints from now on to nowhere, what C libraries print too."""
    with open(os.devnull, "wb") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)


def _exit_after(owner: BaseProcess) -> None:
    owner.join()
    os._exit(1)
