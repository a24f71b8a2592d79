"""Child processes: one way to start them, for cells and for decode workers.

A child

- runs a function of an importable module and never re-imports the user's `__main__`, so that scripts without an
  `if __name__ == "__main__":` guard work;
- has the environment variables, the current directory and the import path that its owner has at that moment;
- ends with its owner, even if the owner is killed and the child hangs in a library that holds the interpreter lock.

Children are forked from a fork server that has imported the costly modules once (`preload`); where the platform has no fork
server, each child is a fresh interpreter (`spawn`).
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import spawn
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, Literal

Method = Literal["forkserver", "spawn"]

DEFAULT_METHOD: Method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

_lock = threading.RLock()  # guards _servers and the functions of multiprocessing that are replaced during a start
_servers: dict[tuple[int, tuple[str, ...]], Any] = {}  # by owner (a fork copies this dict) and preloaded modules


def pipe(*, duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends, either of which may be an argument of `start`.

    Close the child's end in the owner after `start`: only then does the owner read the end of file when the child dies.

    Args:
        duplex: whether both ends send and receive; otherwise the first receives and the second sends.
    """
    return multiprocessing.get_context(DEFAULT_METHOD).Pipe(duplex)


def start(
    target: Callable[..., object],
    args: tuple[Any, ...],
    *,
    preload: tuple[str, ...],
    daemon: bool = False,
    method: Method | None = None,
) -> BaseProcess:
    """Start a child process. May be called from any thread.

    Each tuple of preloaded modules has its own fork server, which is started once per owner and ends with it. If a
    fork server dies (a preloaded module may raise while it is imported), the child is spawned instead, so that `target` can
    report the error.

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
    """
    if target.__module__ == "__main__":
        raise ValueError(f"{target.__qualname__} is defined in __main__. Move it to a module that children can import.")
    arguments = (_Environment(), target, args)
    with _lock, _replaced(spawn, "get_preparation_data", _preparation_data_without_main(spawn.get_preparation_data)):
        if (method or DEFAULT_METHOD) == "forkserver":
            try:
                return _fork(arguments, preload, daemon=daemon)
            except (EOFError, ConnectionError):  # the fork server died
                _servers.pop((os.getpid(), preload), None)
                if method is not None:
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
    """
    ours, theirs = pipe(duplex=False)
    child = start(target, (*args, theirs), preload=preload, method=method)
    theirs.close()
    try:
        with contextlib.suppress(EOFError):
            while True:
                hear(ours.recv())
    except BaseException:
        child.kill()
        raise
    finally:
        child.join()
        ours.close()
    return child.exitcode


def is_warm(preload: tuple[str, ...]) -> bool:
    """Whether this process has a fork server that has imported these modules, or is importing them."""
    return (os.getpid(), preload) in _servers


def _fork(arguments: tuple[Any, ...], preload: tuple[str, ...], *, daemon: bool) -> BaseProcess:
    """Start a child from the fork server for these modules, without touching multiprocessing's own fork server."""
    from multiprocessing import forkserver, resource_tracker

    key = (os.getpid(), preload)
    if key not in _servers:
        server = forkserver.ForkServer()
        server.set_forkserver_preload(list(preload))
        resource_tracker.ensure_running()  # its start would unblock the signal
        with _import_path_in_environment(), _without_ctrl_c():
            server.ensure_running()
        _servers[key] = server
    process = multiprocessing.get_context("forkserver").Process(target=_enter, args=arguments, daemon=daemon)
    with _replaced(forkserver, "connect_to_new_process", _servers[key].connect_to_new_process):
        process.start()
    return process


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
def _import_path_in_environment() -> Iterator[None]:
    """Pass `sys.path` on in PYTHONPATH: a fork server imports its modules before it is told the owner's path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class _Environment:
    """The owner's environment variables when it is pickled; unpickling it in the child sets them.

    As the first argument of a child it is unpickled before the module of the target is imported, which may read them.
    """

    def __reduce__(self) -> tuple[Callable[..., None], tuple[dict[str, str]]]:
        return _set_environment, (dict(os.environ),)


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
    """Arrange that this process ends when its owner does, however that happens.

    Both ways watch a pipe whose other end only the owner holds. A thread does so on every platform, but it needs the
    interpreter lock. On Linux the kernel also sends SIGKILL when the pipe hangs up (signal-driven I/O, see F_SETSIG in
    fcntl(2)). Unlike PR_SET_PDEATHSIG this depends neither on the thread that started the process nor on the fork server.
    """
    owner = multiprocessing.parent_process()
    if owner is None:
        return
    threading.Thread(target=_exit_after, args=(owner,), name="end with owner", daemon=True).start()
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # a kernel without signal-driven I/O on pipes: the thread remains
            fcntl.fcntl(owner.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(owner.sentinel, fcntl.F_SETOWN, os.getpid())
            flags = fcntl.fcntl(owner.sentinel, fcntl.F_GETFL)
            fcntl.fcntl(owner.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if not owner.is_alive():  # it ended before the kernel was asked to watch it
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
