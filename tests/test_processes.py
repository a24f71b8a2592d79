"""Child processes: what they inherit, how they end, and what a fork server saves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsar_bench import processes
from fsar_bench.errors import ProcessError

METHODS = ("forkserver", "spawn")
ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")

TARGETS = '''
"""Bodies of the children that these tests start."""
import ctypes, os, resource, subprocess, sys, time
from pathlib import Path
from fsar_bench import processes

def hang(pid_file):
    """Note the pid, then sleep in C without releasing the interpreter lock."""
    Path(pid_file + ".part").write_text(str(os.getpid()))
    os.replace(pid_file + ".part", pid_file)
    ctypes.PyDLL(None).sleep(600)

def shout():
    print("± 1", flush=True)
    processes.silence()
    print("± 2", flush=True)
    os.system("echo 3; echo 4 >&2")

def cell(pid_file, method):
    """Start a child that hangs, then hang as well."""
    processes.start(hang, (pid_file + ".worker",), preload=(), daemon=True, method=method)
    hang(pid_file)

class HangsWhenUnpickled:
    """An argument that a child never gets: it hangs before any function of a child runs."""
    def __init__(self, pid_file):
        self.pid_file = pid_file
    def __reduce__(self):
        return hang, (self.pid_file,)

def program(pid_file):
    """Start a program that knows nothing of its owner."""
    subprocess.Popen(["sh", "-c", f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 600"])
    hang(pid_file + ".child")

def tick(path):
    """Make a file longer as long as the owner is not stopped."""
    while True:
        processes.wait_for_owner()
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.01)

def end(code):
    sys.exit(code)

def kill_itself():
    os.kill(os.getpid(), 9)

def die_in_a_message(connection):
    connection.send("first")
    os.write(connection.fileno(), b"\\0\\0\\0\\x09half")
    kill_itself()

def leave_a_child(connection):
    """End, but not all that holds the connection."""
    connection.send("first")
    if os.fork() == 0:
        time.sleep(600)
    os._exit(3)

def wait_for_a_file(path, connection):
    connection.send(os.getpid())
    while not Path(path).exists():
        time.sleep(0.01)
    connection.send("last")

def tell(connection):
    connection.send((os.environ.get("FSAR_TEST"), os.getcwd(), list(sys.path), sys.modules["__main__"].__dict__.get("DATA")))

def peak(connection, megabytes):
    data = bytearray(megabytes << 20)
    data[::4096] = bytes(len(data[::4096]))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

def echo(connection):
    connection.send(connection.recv())
'''


@pytest.fixture
def targets(tmp_path, monkeypatch) -> Iterator[object]:
    """The module of targets, importable here and in children."""
    name = f"targets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__(name)
    del sys.modules[name]


def run_in_child(target: Callable, *args, **options):
    """Start a child that sends one message, and return the message."""
    receiver, sender = processes.pipe(duplex=False)
    options.setdefault("preload", ())
    process = processes.start(target, (sender, *args), **options)
    sender.close()
    message = receiver.recv() if receiver.poll(60) else None
    process.join(60)
    assert process.exitcode == 0
    return message


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def owner_script(folder: Path, targets: object, body: str) -> subprocess.Popen:
    """Run a script that has no `__main__` guard, in a session of its own, which all that it starts belongs to."""
    script = folder / "owner.py"
    script.write_text(
        f"import threading, time\nimport {targets.__name__} as targets\nfrom fsar_bench import processes\n{body}"
    )
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )


def session_of(pid: int) -> set[int]:
    """Living processes of the session that a process leads or led, without itself."""
    members = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == pid and state != "Z":
            members.add(int(path.parent.name))
    return members - {pid}


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def pid_in(file: Path) -> int:
    assert wait_until(file.exists, 60), f"{file.name} was not written"
    return int(file.read_text())


@pytest.mark.parametrize("thread", [False, True], ids=["main_thread", "other_thread"])
@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_holds_the_interpreter_lock_dies_with_its_killed_owner(targets, tmp_path, method, thread):
    file = tmp_path / "child"
    call = f"processes.start(targets.hang, ({str(file)!r},), preload=(), method={method!r})"
    if thread:
        call = f"thread = threading.Thread(target=lambda: {call}); thread.start(); thread.join()"
    owner = owner_script(tmp_path, targets, f"{call}\ntime.sleep(600)\n")
    child = pid_in(file)
    time.sleep(0.3)
    assert is_running(child)  # with a thread: it has outlived the thread that started it
    owner.kill()
    owner.communicate(timeout=10)  # returns when no process holds the owner's output: the fork server is gone too
    assert wait_until(lambda: not is_running(child), 10)


@pytest.mark.parametrize("victim", ["owner", "cell"])
@pytest.mark.parametrize("method", METHODS)
def test_a_childs_child_dies_with_either_of_them(targets, tmp_path, method, victim):
    file = tmp_path / "cell"
    call = f"processes.start(targets.cell, ({str(file)!r}, {method!r}), preload=(), method={method!r})"
    owner = owner_script(tmp_path, targets, f"{call}\ntime.sleep(600)\n")
    cell, worker = pid_in(file), pid_in(tmp_path / "cell.worker")
    try:
        os.kill(owner.pid if victim == "owner" else cell, signal.SIGKILL)
        assert wait_until(lambda: not is_running(worker) and not is_running(cell), 10)
    finally:
        owner.kill()
        owner.communicate(timeout=10)


@pytest.mark.parametrize("method", METHODS)
def test_stopped_processes_die_with_a_killed_owner(targets, tmp_path, method):
    """A stopped process runs no code; the kernel ends it: children, their children, fork servers, the resource tracker."""
    file = tmp_path / "cell"
    call = f"processes.start(targets.cell, ({str(file)!r}, {method!r}), preload=(), method={method!r})"
    owner = owner_script(tmp_path, targets, f"{call}\ntime.sleep(600)\n")
    cell, worker = pid_in(file), pid_in(tmp_path / "cell.worker")
    family = session_of(owner.pid)
    assert {cell, worker} < family
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    owner.kill()
    assert wait_until(lambda: not session_of(owner.pid), 10), session_of(owner.pid)
    owner.communicate(timeout=10)


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_is_still_starting_dies_with_its_killed_owner(targets, tmp_path, method):
    file = tmp_path / "child"
    arguments = f"(targets.HangsWhenUnpickled({str(file)!r}),)"
    owner = owner_script(
        tmp_path,
        targets,
        f"processes.start(targets.hang, {arguments}, preload=(), method={method!r})\ntime.sleep(600)\n",
    )
    child = pid_in(file)
    assert is_running(child)
    owner.kill()
    assert wait_until(lambda: not session_of(owner.pid), 10), session_of(owner.pid)
    owner.communicate(timeout=10)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_programs_that_a_child_started_end_with_the_owner(targets, tmp_path, sign):
    file = tmp_path / "program"
    owner = owner_script(
        tmp_path, targets, f"processes.start(targets.program, ({str(file)!r},), preload=())\ntime.sleep(600)\n"
    )
    program, child = pid_in(file), pid_in(tmp_path / "program.child")
    assert {program, child} <= session_of(owner.pid)
    os.kill(owner.pid, sign)
    if sign == signal.SIGINT:  # Python waits at its exit for children that are no daemons
        time.sleep(0.5)
        os.kill(owner.pid, sign)
    assert wait_until(lambda: not session_of(owner.pid), 10), session_of(owner.pid)
    owner.communicate(timeout=10)


def test_no_other_process_holds_the_lifeline(targets, tmp_path):
    """Neither children that were started later nor a fork keep a hanging child alive."""
    files = [tmp_path / name for name in ("first", "second", "forked")]
    body = f"""
import os
for method in ("forkserver", "spawn"):
    processes.start(targets.cell, ({str(files[0])!r} + method, method), preload=(), method=method)
if os.fork() == 0:
    targets.hang({str(files[2])!r})
print(*(os.readlink(f"/proc/self/fd/{{fd}}") for fd in processes._lifeline), flush=True)
time.sleep(600)
"""
    owner = owner_script(tmp_path, targets, body)
    names = ("firstforkserver", "firstspawn", "firstforkserver.worker", "firstspawn.worker")
    children, forked = {pid_in(tmp_path / name) for name in names}, pid_in(files[2])
    pipe = owner.stdout.readline().split()[0]
    holders = set()
    for pid in session_of(owner.pid) | {owner.pid}:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
            if os.readlink(link) == pipe and int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                holders.add(pid)
    assert holders == {owner.pid}
    owner.kill()
    assert wait_until(lambda: not children & session_of(owner.pid), 10)
    assert is_running(forked)  # it is none of ours
    os.kill(forked, signal.SIGKILL)
    owner.communicate(timeout=10)


def test_a_child_whose_fork_server_died_is_killed_all_the_same(targets, tmp_path):
    preload = ("wave",)  # a fork server of its own
    child = processes.start(targets.hang, (str(tmp_path / "child"),), preload=preload, daemon=True)
    pid = pid_in(tmp_path / "child")
    os.kill(processes._servers[os.getpid(), preload]._forkserver_pid, signal.SIGKILL)
    assert wait_until(lambda: not child.is_alive(), 10)  # so multiprocessing thinks
    assert is_running(pid)
    processes.kill(child)
    processes.join(child)
    assert not is_running(pid)
    assert processes.ending(child.exitcode) == "an unknown exit code"
    assert run_in_child(targets.peak, 1, preload=preload) > 1  # from another fork server


def test_what_a_child_sent_before_it_died_is_heard(targets):
    for target, code in ((targets.die_in_a_message, -9), (targets.leave_a_child, 3)):
        heard = []
        assert processes.converse(target, (), heard.append, preload=()) == code
        assert heard == ["first"]


def test_a_child_whose_fork_server_died_is_heard_to_its_end(targets, tmp_path):
    preload, heard = ("chunk",), []

    def hear(message: object) -> None:
        heard.append(message)
        if len(heard) == 1:
            os.kill(processes._servers[os.getpid(), preload]._forkserver_pid, signal.SIGKILL)
            threading.Timer(0.3, (tmp_path / "go").touch).start()

    processes.converse(targets.wait_for_a_file, (str(tmp_path / "go"),), hear, preload=preload)
    assert heard[1:] == ["last"]


def test_a_fork_server_that_does_not_answer_is_replaced(targets, monkeypatch):
    preload = ("aifc_is_not_installed",)
    run_in_child(targets.peak, 1, preload=preload)
    server = processes._servers[os.getpid(), preload]._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    monkeypatch.setattr(processes, "FORK_SECONDS", 0.2)
    assert run_in_child(targets.peak, 1, preload=preload) > 1
    assert not is_running(server)


@pytest.mark.parametrize("method", METHODS)
def test_a_child_waits_while_its_owner_is_stopped(targets, tmp_path, method):
    file = tmp_path / "ticks"
    call = f"processes.start(targets.tick, ({str(file)!r},), preload=(), daemon=True, method={method!r})"
    owner = owner_script(tmp_path, targets, f"{call}\ntime.sleep(600)\n")
    assert wait_until(file.exists, 60)
    try:
        owner.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        ticks = file.stat().st_size
        time.sleep(0.5)
        assert file.stat().st_size == ticks
        owner.send_signal(signal.SIGCONT)
        assert wait_until(lambda: file.stat().st_size > ticks, 10)
    finally:
        owner.kill()
        owner.communicate(timeout=10)


def test_a_dead_child_ends_those_that_need_it(targets, tmp_path):
    """The one that ends well before is no reason; what all said before is heard."""
    heard, paths = [], [tmp_path / str(number) for number in range(4)]
    paths[0].touch()

    def hear(number: int, message: object) -> None:
        heard.append((number, message))
        if len({number for number, _ in heard if number != 0}) == 3 and len(heard) == 5:
            pids = dict(heard[::-1])
            assert wait_until(lambda: not is_running(pids[0]), 10)
            os.kill(pids[2], signal.SIGKILL)

    codes = processes.converse_with_all(targets.wait_for_a_file, [(str(path),) for path in paths], hear, preload=())
    assert codes == {0: 0, 2: -9}
    assert wait_until(lambda: not any(is_running(pid) for _, pid in heard if isinstance(pid, int)), 5)


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_child_is_known_and_killed(targets, tmp_path, method):
    child = processes.start(targets.hang, (str(tmp_path / "child"),), preload=(), daemon=True, method=method)
    pid_in(tmp_path / "child")
    assert not processes.is_stopped(child)
    os.kill(child.pid, signal.SIGSTOP)
    assert wait_until(lambda: processes.is_stopped(child), 10)
    processes.kill(child)
    processes.join(child)
    assert child.exitcode == -9


def test_an_owner_is_suspended_with_its_children(targets, tmp_path):
    file = tmp_path / "child"
    body = f"""
processes.start(targets.hang, ({str(file)!r},), preload=())
while not __import__("pathlib").Path({str(file)!r}).exists():
    time.sleep(0.01)
processes.suspend()
print("resumed", flush=True)
time.sleep(600)
"""
    owner = owner_script(tmp_path, targets, body)
    child = pid_in(file)
    assert wait_until(lambda: state_of(owner.pid) == "T" == state_of(child), 10)
    os.kill(owner.pid, signal.SIGCONT)
    assert owner.stdout.readline() == "resumed\n"
    assert state_of(child) != "T"
    owner.kill()
    owner.communicate(timeout=10)


@pytest.mark.parametrize("method", METHODS)
def test_a_process_without_descriptors_is_told_so(targets, tmp_path, method):
    body = f"""
import os, resource
from fsar_bench.errors import ProcessError
processes.start(targets.end, (0,), preload=(), method={method!r}).join()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1,) * 2)
ways = lambda: [processes.pipe() for _ in range(9)], lambda: processes.start(targets.end, (0,), preload=(), method={method!r})
for way in ways:
    try:
        way()
    except ProcessError as error:
        print(error)
"""
    out, _ = owner_script(tmp_path, targets, body).communicate(timeout=120)
    message = "Cannot start a process (Too many open files): this process has too many open files: raise the limit (ulimit -n)"
    assert out.splitlines() == [f"{message}, or lower workers=."] * 2


def test_a_system_without_processes_is_told_so(targets, monkeypatch):
    def refuse(*_args, **_options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(ProcessError, match=r"\(Resource temporarily unavailable\): the limit of processes is reached"):
        processes.start(targets.end, (0,), preload=(), method="spawn")


@pytest.mark.parametrize("length", [40, 41, 49])
def test_the_folder_of_temporary_files_may_have_a_long_path(targets, tmp_path, monkeypatch, length):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / ("x" * (length - len(short) - 1))
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        out, _ = owner_script(
            tmp_path, targets, "print(processes.start(targets.end, (0,), preload=()).join())"
        ).communicate()
    assert out == "None\n"


def test_endings_are_told_in_words():
    assert [processes.ending(code) for code in (0, 3, -9, -11, -65, None)] == [
        "exit code 0", "exit code 3", "exit code -9: SIGKILL, out of memory?", "exit code -11: SIGSEGV", "exit code -65",
        "an unknown exit code",
    ]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_exit_codes_are_reported(targets, method):
    for target, args, code in ((targets.end, (3,), 3), (targets.end, (0,), 0), (targets.kill_itself, (), -9)):
        process = processes.start(target, args, preload=(), method=method)
        process.join(60)
        assert process.exitcode == code


def test_peak_memory_of_a_child_is_its_own(targets):
    before, large, after = (run_in_child(targets.peak, megabytes) for megabytes in (1, 200, 1))
    assert large > before + 150
    assert after < before + 50


@pytest.mark.parametrize("method", METHODS)
def test_a_child_has_the_environment_folder_and_import_path_of_the_moment(targets, tmp_path, monkeypatch, method):
    for number in range(2):  # the fork server was started with those of the first
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("FSAR_TEST", str(number))
        monkeypatch.syspath_prepend(str(folder))
        variable, current, path, _ = run_in_child(targets.tell, method=method)
        assert (variable, Path(current), Path(path[0])) == (str(number), folder, folder)
    monkeypatch.delenv("FSAR_TEST")
    assert run_in_child(targets.tell, method=method)[0] is None


@pytest.mark.parametrize("method", METHODS)
def test_scripts_need_no_guard(targets, tmp_path, method):
    body = f"""
DATA = "of the script"
print("the script runs")
receiver, sender = processes.pipe(duplex=False)
process = processes.start(targets.tell, (sender,), preload=(), method={method!r})
print("the child has", receiver.recv()[3])
process.join()
print("exit code", process.exitcode)
"""
    out, _ = owner_script(tmp_path, targets, body).communicate(timeout=120)
    assert out.splitlines() == ["the script runs", "the child has None", "exit code 0"]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_prints_any_text_in_any_locale_until_it_is_silenced(targets, tmp_path, monkeypatch, method):
    """What it prints goes to logs, which are UTF-8; what C libraries print is silenced too."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    body = f"""
process = processes.start(targets.shout, (), preload=(), method={method!r})
process.join()
print("exit code", process.exitcode)
"""
    out, _ = owner_script(tmp_path, targets, body).communicate(timeout=120)
    assert out.splitlines() == ["± 1", "exit code 0"]


def test_other_uses_of_multiprocessing_are_untouched(targets):
    from multiprocessing import forkserver, spawn

    before = (spawn.get_preparation_data, forkserver.connect_to_new_process, forkserver._forkserver._preload_modules)
    run_in_child(targets.tell, preload=("json",))
    assert before == (
        spawn.get_preparation_data,
        forkserver.connect_to_new_process,
        forkserver._forkserver._preload_modules,
    )


def test_a_preloaded_module_is_imported_once(targets, tmp_path):
    """The ratio is taken in one run; the module takes a second to import."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(1)\n")
    (tmp_path / "slow_target.py").write_text(
        "import slow_module\ndef answer(connection):\n    connection.send(slow_module.__name__)\n"
    )
    sys.modules["slow_module"] = type(sys)("slow_module")  # children import it, this process need not
    try:
        import slow_target

        seconds = {}
        for method in ("forkserver", "forkserver", "forkserver", "spawn"):  # the first also starts the fork server
            began = time.perf_counter()
            assert run_in_child(slow_target.answer, preload=("slow_module",), method=method) == "slow_module"
            seconds[method] = min(time.perf_counter() - began, seconds.get(method, 600.0))
    finally:
        for name in ("slow_module", "slow_target"):
            sys.modules.pop(name, None)
    assert seconds["forkserver"] < seconds["spawn"] / 3


def test_a_broken_preloaded_module_is_left_to_the_target(targets, tmp_path):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('broken')\n")
    assert run_in_child(targets.peak, 1, preload=("broken_module",)) > 1
    with pytest.raises((EOFError, ConnectionError)):
        processes.start(targets.end, (0,), preload=("broken_module",), method="forkserver")


def test_many_threads_start_children_at_once(targets):
    answers: list[object] = []

    def ask(number: int) -> None:
        connection, theirs = processes.pipe()
        process = processes.start(targets.echo, (theirs,), preload=(), daemon=True)
        theirs.close()
        connection.send(number)
        answers.append(connection.recv())
        process.join(60)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == list(range(6))


def test_functions_of_main_are_refused(targets):
    def target() -> None:
        """Never started."""

    target.__module__ = "__main__"
    with pytest.raises(ValueError, match="defined in __main__"):
        processes.start(target, (), preload=())
