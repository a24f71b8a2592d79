"""Launchers without a cluster: what a driver refuses, hands over again and ships, with stand-ins that keep to the protocol."""

from __future__ import annotations

import io
import shutil
import socket
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from helpers import annotation_rows, children, children_that_stay, outputs, tiny_cells, write_dataset

from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.launchers import choice, drive, node
from fsar_bench.engine.launchers.chains import chains
from fsar_bench.engine.launchers.drive import ATTEMPTS, Drive
from fsar_bench.engine.launchers.messages import FILES, Failure, Parcel, Told, accept, decode, encode, pack
from fsar_bench.engine.launchers.node import Task, Throttle, run_task
from fsar_bench.engine.launchers.ray import _needs
from fsar_bench.engine.launchers.window import Broken, Ended, Lost, Window
from fsar_bench.engine.sweep import run_isolated, sweep
from fsar_bench.errors import BusyError, CellCrashedError, ConfigError, DataError, ResultError
from fsar_bench.progress.events import VALIDATED, WARNING, Event, silent
from fsar_bench.results.store import read


@dataclass
class Script:
    """A cluster that plays what a function tells of each task; see `window.Cluster`."""

    play: object
    slots: int = 1
    window: int = 2
    batch: int = 1
    share: int = 1
    submitted: list = field(default_factory=list)
    most: int = 0
    _told: list = field(default_factory=list)

    def submit(self, tasks) -> None:
        self.submitted += [task for _, task in tasks]
        self._told += [[number, list(self.play(task))] for number, task in tasks]
        self.most = max(self.most, len(self._told))

    def poll(self):
        number, told = self._told[0]
        message = told.pop(0)
        if not isinstance(message, bytes):
            self._told.pop(0)
        return [(number, message)]

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


def driven(cells, options, play, listener=silent):
    """Outcomes of cells on a cluster that plays, in the order of the cells, and the cluster."""
    cluster = Script(play)
    with Drive(options, lambda _: cluster, lambda _: listener, lambda _: None) as run:
        outcomes = {outcome.cell.hash: outcome for outcome, _ in run(cells)}
    return [outcomes[cell.hash] for cell in cells], cluster


def run_here(task):
    """A node in this process."""
    yield from run_task(task)
    yield Ended()


@pytest.fixture(scope="module")
def made(cache, tmp_path_factory):
    """Two cells, their options, and their parcels by hash."""
    folder = tmp_path_factory.mktemp("elsewhere")
    tiny = write_dataset(folder / "tiny.py", annotation_rows())
    cells, options = tiny_cells(tiny, folder, "methods=otam_frozen,zero_shot")
    stored = {cell.hash: run_isolated(cell, options) for cell in cells}
    parcels = {name: Parcel(cell=name, node="gpu1", log=b"", files=pack(stored[name])) for name in stored}
    return cells, options, parcels


@pytest.fixture
def parcels(made, tmp_path):
    """Two cells with their parcels, made elsewhere, and the options of a run that has neither."""
    cells, options, parcels = made
    own = {"out": tmp_path / "leaderboards", "work_dir": tmp_path / "work_dirs"}
    return cells, parcels, options.model_copy(update=own)


def test_what_comes_back_is_stored_as_it_was_made(parcels, made):
    cells, sent, options = parcels
    for cell in cells:
        stored = accept(decode(encode(sent[cell.hash])), cell, options.out)
        assert stored.folder == options.out / "results" / cell.folder
        assert read(stored.folder).result == stored.result
    elsewhere = made[1].out
    assert outputs(options.out) == outputs(elsewhere)
    plans = [{p.name: p.read_bytes() for p in (out / "plans").iterdir()} for out in (options.out, elsewhere)]
    assert plans[0] == plans[1]


def changed(parcel: Parcel, **files: bytes) -> Parcel:
    """A parcel with other files; `_` stands for the dot."""
    return parcel.model_copy(update={"files": {**parcel.files, **{k.replace("_", "."): v for k, v in files.items()}}})


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def repacked(parcel: Parcel) -> Parcel:
    """Predictions that are sound by themselves, and not those that the record names."""
    with np.load(io.BytesIO(parcel.files["predictions.npz"])) as file:
        arrays = {name: file[name].copy() for name in file.files}
    arrays["prediction"][0, 0] = (arrays["prediction"][0, 0] + 1) % 5
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return changed(parcel, predictions_npz=buffer.getvalue())


TAMPERED = {
    "a byte of the predictions": lambda own, _: changed(own, predictions_npz=flipped(own.files["predictions.npz"], 200)),
    "other predictions": lambda own, _: repacked(own),
    "another accuracy": lambda own, _: changed(
        own, result_json=own.files["result.json"].replace(b'"accuracy": ', b'"accuracy": 1')
    ),
    "another cell's result": lambda own, other: own.model_copy(update={"files": other.files}),
    "another seed of the cell": lambda own, _: changed(
        own, result_json=own.files["result.json"].replace(b'"engine": 1', b'"engine": 2')
    ),
    "another title": lambda own, _: changed(
        own, result_json=own.files["result.json"].replace(b'"title": "OTAM, frozen"', b'"title": "Best of all"')
    ),
    "a byte of the plan": lambda own, _: changed(own, plan_npz=flipped(own.files["plan.npz"], 300)),
    "no record": lambda own, _: changed(own, result_json=b"[]"),
    "a damaged cost": lambda own, _: changed(own, cost_json=b'{"seconds": -1}'),
    "a submitted one": lambda own, _: changed(
        own, result_json=own.files["result.json"].replace(b'"schema_version"', b'"submitted": true, "schema_version"')
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_a_result_that_was_tampered_with_is_refused_and_the_other_one_is_stored(parcels, how):
    cells, made, options = parcels
    sent, other = made[cells[0].hash], made[cells[1].hash]
    wrong = TAMPERED[how](sent, other)
    assert wrong != sent
    answers = {cells[0].hash: wrong, cells[1].hash: other}
    (refused, done), _ = driven(
        cells, options, lambda task: [*(encode(answers[cell.hash]) for cell in task.cells), Ended()]
    )
    assert (refused.state, done.state) == ("failed", "done")
    assert isinstance(refused.error, ResultError)
    assert str(refused.error).startswith(f"What gpu1 sent as the result of {cells[0]} is refused: ")
    assert "fsar-bench-" not in str(refused.error)  # no folder of ours
    assert not (options.out / "results" / cells[0].folder).exists()


@pytest.mark.parametrize(
    "line", [b"", b"\xff\n", b"{}", b'{"kind": "told"}', b'{"kind": "parcel", "files": {"../x": ""}}']
)
def test_what_is_no_message_fails_its_cells_alone(parcels, line):
    cells, made, options = parcels
    play = {cells[0].hash: [line, Ended()], cells[1].hash: [encode(made[cells[1].hash]), Ended()]}
    (failed, done), _ = driven(cells, options, lambda task: play[task.cells[0].hash])
    assert (failed.state, done.state) == ("failed", "done")
    assert "a node sent what is no message" in str(failed.error)


def test_a_result_without_one_of_its_files_is_no_message(parcels):
    cells, made, _options = parcels
    parcel = made[cells[0].hash]
    for name in FILES:
        less = parcel.model_copy(update={"files": {key: data for key, data in parcel.files.items() if key != name}})
        with pytest.raises(ResultError, match="it has not the files"):
            decode(encode(less))


def test_an_answer_for_a_cell_of_another_task_is_refused(parcels):
    cells, made, options = parcels
    (failed, done), _ = driven(cells, options, lambda task: [encode(made[cells[1].hash]), Ended()])
    assert (failed.state, done.state) == ("failed", "done")
    assert f"a node answered for {cells[1].hash[:8]}, a cell that was not sent to it" in str(failed.error)


def test_a_lost_task_is_handed_over_again_without_the_cells_that_ended(parcels, monkeypatch):
    cells, made, options = parcels
    monkeypatch.setattr(drive, "chains", lambda cells: [list(cells)])
    told = []

    def play(task):
        yield encode(made[task.cells[0].hash])
        yield Lost("its node was lost") if task.attempt == 1 else Ended()

    done, cluster = driven(cells, options, play, told.append)
    assert [outcome.state for outcome in done] == ["done", "done"]
    assert [list(task.cells) for task in cluster.submitted] == [cells, cells[1:]]
    (warning,) = [event.note for event in told if event.stage == WARNING]
    assert warning == f"{cells[1]}: its node was lost; handed over again, attempt 2 of {ATTEMPTS}"


def test_a_task_is_not_handed_over_without_end(tiny, tmp_path):
    (cell,), options = tiny_cells(tiny, tmp_path, "methods=otam_frozen")
    ((failed),), cluster = driven([cell], options, lambda _: [Lost("its node was lost")])
    assert failed.state == "failed"
    assert str(failed.error) == f"what ran it was lost {ATTEMPTS} times, last so: its node was lost"
    assert [task.attempt for task in cluster.submitted] == list(range(1, ATTEMPTS + 1))


@pytest.mark.parametrize(
    ("end", "message"), [(Ended(), "without a result of this cell"), (Broken("No module 'x'."), "No module 'x'.")]
)
def test_a_task_that_ends_without_its_results_fails_them_once(tiny, tmp_path, end, message):
    (cell,), options = tiny_cells(tiny, tmp_path, "methods=otam_frozen")
    (failed,), cluster = driven([cell], options, lambda _: [end])
    assert (failed.state, len(cluster.submitted)) == ("failed", 1)
    assert isinstance(failed.error, CellCrashedError)
    assert message in str(failed.error)


@pytest.mark.parametrize(
    ("node_name", "error", "kind", "state", "message"),
    [
        ("gpu7", "DataError", DataError, "failed", "a.mp4 is gone. (on the node gpu7)"),
        (socket.gethostname(), "DataError", DataError, "failed", "a.mp4 is gone."),
        ("gpu7", "BusyError", BusyError, "busy", "a.mp4 is gone. (on the node gpu7)"),
        ("gpu7", "SystemExit", CellCrashedError, "failed", "a.mp4 is gone. (on the node gpu7)"),
    ],
)
def test_an_error_of_the_user_comes_back_with_its_node_and_is_not_tried_again(
    tiny, tmp_path, node_name, error, kind, state, message
):
    (cell,), options = tiny_cells(tiny, tmp_path, "methods=otam_frozen")
    answer = Failure(cell=cell.hash, node=node_name, log=b"the end", error=error, message="a.mp4 is gone.")
    (outcome,), cluster = driven([cell], options, lambda _: [encode(answer), Ended()])
    assert (outcome.state, type(outcome.error), str(outcome.error)) == (state, kind, message)
    assert len(cluster.submitted) == 1
    assert (options.work_dir / cell.work_folder / "log.txt").read_bytes() == b"the end"


def test_finished_cells_are_reused_without_a_cluster(parcels):
    cells, made, options = parcels
    for cell in cells:
        accept(made[cell.hash], cell, options.out)

    def unused(_):
        raise AssertionError("no cluster is needed")

    with Drive(options, unused, lambda _: silent, lambda _: None) as run:
        assert [outcome.state for outcome, _ in run(cells)] == ["reused", "reused"]


def test_a_window_holds_as_many_tasks_as_the_cluster_takes():
    """Tasks are made when there is room, a lost one is the next, and a batch waits until it is whole."""
    made = []

    def tasks():
        for number in range(20):
            made.append(number)
            yield number

    cluster = Script(lambda task: [b"told", Lost("") if task == 7 else Ended()], window=4)
    window, ended, again = Window(cluster, tasks()), [], []
    for task, told in window:
        assert len(made) - len(ended) <= 4
        if isinstance(told, Lost) and not again:
            again.append(task)
            window.again(task)
        elif not isinstance(told, bytes):
            ended.append(task)
    assert sorted(ended) == list(range(20))
    assert again == [7]
    assert cluster.submitted.index(7) < cluster.submitted.index(7, cluster.submitted.index(7) + 1) <= 13
    assert cluster.most == 4

    sizes = []
    batches = Script(lambda task: [Ended()], window=6, batch=3)
    batches.submit, submit = lambda tasks: (sizes.append(len(tasks)), submit(tasks)), batches.submit
    list(Window(batches, range(10)))
    assert sizes == [6, 3, 1]


def test_cells_that_share_a_training_are_one_task(tiny, tmp_path):
    """Known by the methods themselves: an argument that changes the score alone does not change the training."""
    cells, _ = tiny_cells(tiny, tmp_path, "methods=otam,otam_frozen,bi_mhm", "shot=1,2")
    grouped = [[(cell.name, cell.protocol.shot) for cell in group] for group in chains(cells)]
    assert grouped == [
        [("otam", 1), ("otam", 2)], [("otam_frozen", 1)], [("otam_frozen", 2)], [("bi_mhm", 1), ("bi_mhm", 2)],
    ]  # fmt: skip
    alphas, _ = tiny_cells(tiny, tmp_path, "methods=ma_clip", "ma_clip.method.predict_alpha=0.1,0.5")
    assert [len(group) for group in chains(alphas)] == [2]
    trained, _ = tiny_cells(tiny, tmp_path, "methods=ma_clip", "ma_clip.method.ffn_width=32,64")
    assert [len(group) for group in chains(trained)] == [1, 1]
    seeds, _ = tiny_cells(tiny, tmp_path, "methods=otam", "train.seed=1,2", "shot=1,2")
    assert [len(group) for group in chains(seeds)] == [2, 2]


def a_task(cells, options, tmp_path, *, sees: bool) -> Task:
    mark = tmp_path / "mark"
    mark.write_bytes(b"it")
    return Task.of(cells, options, (mark, b"it" if sees else b"another"), share=1)


@pytest.mark.parametrize("sees", [True, False])
def test_a_node_works_in_the_drivers_folder_where_it_sees_it(tiny, tmp_path, sees):
    (cell,), options = tiny_cells(tiny, tmp_path, "methods=otam")
    messages = [decode(line) for line in run_task(a_task([cell], options, tmp_path, sees=sees))]
    assert {message.stage for message in messages if isinstance(message, Told)} >= {"training", "encoding", "scoring"}
    stored = accept(messages[-1], cell, tmp_path / "taken")
    assert (options.work_dir / cell.training_folder(stored.result.training_key) / "best.safetensors").exists() == sees
    assert (messages[-1].log == b"") == sees
    assert not options.out.exists()
    list(sweep([cell], options, run_isolated))
    assert outputs(tmp_path / "taken") == outputs(options.out)


def test_custom_modules_come_with_the_task(tiny, tmp_path):
    """Their folder is gone when the node runs them; what a module imports from there comes too."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_scale.py").write_text("SCALE = 2.0\n")
    (folder / "my_module.py").write_text(
        "from my_scale import SCALE\nfrom fsar_bench.methods.zero_shot import ZeroShot\n"
        "from fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module()\nclass MyMethod(ZeroShot):\n    scale = SCALE\n"
    )
    (folder / "my_method.py").write_text('custom_imports = ["my_module"]\nmethod = dict(type="MyMethod")\n')
    (cell,), options = tiny_cells(tiny, tmp_path, f"methods={folder / 'my_method.py'}")
    task = a_task([cell], options, tmp_path, sees=False)
    assert [sorted(files) for files in task.modules] == [["my_module.py", "my_scale.py"]]
    shutil.rmtree(folder)
    *_, last = map(decode, run_task(task))
    assert isinstance(last, Parcel), last
    assert accept(last, cell, options.out).result.cell == cell
    other = replace(task, modules=({**task.modules[0], "my_scale.py": b"SCALE = 3.0\n"},))
    *_, last = map(decode, run_task(other))
    assert (last.error, "module my_module my_scale.py" in last.message) == ("DataError", True)


def test_a_node_without_the_data_or_with_another_version_says_so(tiny, tmp_path, monkeypatch):
    (cell,), options = tiny_cells(tiny, tmp_path, "methods=zero_shot")
    task = a_task([cell], options, tmp_path, sees=False)
    annotation = tiny.with_suffix(".json")
    kept = annotation.read_bytes()
    annotation.write_bytes(kept + b" ")
    (message,) = map(decode, run_task(task))
    assert (message.error, message.node) == ("DataError", socket.gethostname())
    assert "cell depends on is another one on this node: annotation." in message.message
    annotation.unlink()
    (message,) = map(decode, run_task(task))
    assert "cell depends on is missing on this node: annotation." in message.message
    annotation.write_bytes(kept)
    (message,) = map(decode, run_task(replace(task, version="0.0.1")))
    assert (message.error, "the command 0.0.1: install the same" in message.message) == ("ProcessError", True)


def test_an_error_in_a_folder_of_the_node_names_the_drivers(tiny, tmp_path):
    (tmp_path / "broken_method.py").write_text(
        "from fsar_bench.methods.zero_shot import ZeroShot\nfrom fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module()\nclass BrokenOnNode(ZeroShot):\n    def score(self, *_):\n        return 1 / 0\n"
    )
    (tmp_path / "broken.py").write_text('custom_imports = ["broken_method"]\nmethod = dict(type="BrokenOnNode")\n')
    (cell,), options = tiny_cells(tiny, tmp_path, f"methods={tmp_path / 'broken.py'}")
    (outcome,), _ = driven([cell], options, lambda task: run_here(replace(task, mark=(tmp_path / "none", b""))))
    log = options.work_dir.absolute() / cell.work_folder / "log.txt"
    assert isinstance(outcome.error, CellCrashedError)
    assert str(outcome.error).endswith(f"Full traceback: {log}")
    assert "return 1 / 0" in log.read_text()


def test_who_leaves_a_task_ends_its_processes_and_its_folder(tiny, tmp_path):
    (cell,), options = tiny_cells(tiny, tmp_path, "methods=otam", "train.episodes=40000", "train.val_interval=40000")
    task = a_task([cell], options, tmp_path, sees=True)
    before, lines = children(), run_task(task)
    next(line for line in map(decode, lines) if getattr(line, "stage", "") == "training")
    assert children(before)
    lines.close()
    assert children_that_stay(before) == []


def test_events_of_a_stage_are_told_now_and_then(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr(node, "monotonic", lambda: now[0])
    listener = Throttle(told.append)
    for done in range(1001):
        now[0] = done / 100
        listener(Event("training", done, 1000))
        if done in (250, 500):
            listener(Event(VALIDATED, done, 1000, f"after {done}"))
            listener(Event(WARNING, 0, 0, "careful"))
    trained = [event.done for event in told if event.stage == "training"]
    assert (trained[0], trained[-1]) == (0, 1000)
    assert len(trained) <= 16
    assert [event.done for event in told if event.stage == VALIDATED] == [250, 500]
    assert sum(event.stage == WARNING for event in told) == 2


def test_a_launcher_that_is_not_installed_is_told_before_the_first_cell(fsar, tiny, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    for launcher, package in (("ray", "ray"), ("slurm", "submitit")):
        done = fsar("run", f"dataset={tiny}", "backbone=tiny_clip", "methods=zero_shot", f"launcher={launcher}")
        assert done.returncode == 1
        assert f"launcher={launcher} needs the package {package}: pip install 'fsar-bench[cluster]'" in done.stderr


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("launcher=kubernetes",), "launcher='kubernetes' is unknown. Choose from: local, ray, slurm."),
        (("address=auto",), "address= has no effect with launcher=local: say launcher=ray, or leave it out."),
        (("slurm.time=3",), "slurm= has no effect with launcher=local: say launcher=slurm"),
        (("launcher=slurm", "ray.num_cpus=3"), "ray= has no effect with launcher=slurm"),
        (("launcher=ray", "jobs=2"), "jobs=2 is for launcher=local"),
        (("launcher=ray", "device=cuda:1"), "device=cuda:1 names a GPU of one machine"),
        (("launcher=ray", "ray=3"), "ray=3 must be a dictionary"),
    ],
)
def test_options_of_another_launcher_are_refused(tiny, tmp_path, pairs, message):
    with pytest.raises(ConfigError) as error:
        tiny_cells(tiny, tmp_path, "methods=otam", *pairs)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("ray.num_cpu=3",), r"Unknown key 'ray.num_cpu'. Did you mean 'ray.num_cpus'"),
        (("ray.num_gpus=none",), r"ray.num_gpus='none' must be a number of at least 0."),
        (("address=ray://head:10001",), r"address=ray://head:10001 is that of a Ray client"),
    ],
)
def test_wrong_options_of_ray_are_named(tiny, tmp_path, pairs, message):
    with pytest.raises(ConfigError, match=message):
        choice.check_launcher(tiny_cells(tiny, tmp_path, "methods=otam", "launcher=ray", *pairs)[1])


def test_dotted_options_are_typed_and_change_no_hash(tiny, tmp_path):
    cells, options = tiny_cells(
        tiny, tmp_path, "methods=otam", "launcher=slurm", "slurm.partition=gpu", "slurm.time=90"
    )
    assert options.slurm == {"partition": "gpu", "time": 90}
    assert [cell.hash for cell in cells] == [cell.hash for cell in tiny_cells(tiny, tmp_path, "methods=otam")[0]]
    python = resolve(
        {"methods": "otam", "dataset": tiny, "launcher": "slurm", "slurm": {"partition": "gpu", "time": 90}}
    )
    assert python.options.slurm == options.slurm


@pytest.mark.parametrize(
    ("options", "nodes", "needs"),
    [
        ({"devices": 4}, [{"CPU": 32, "GPU": 8}, {"CPU": 24, "GPU": 8}], (4, 12)),
        ({"devices": 4, "device": "cpu"}, [{"CPU": 32, "GPU": 8}], (0, 2)),
        ({}, [{"CPU": 32, "GPU": 8}, {"CPU": 64}], (1, 4)),
        ({}, [{"CPU": 1}, {"CPU": 64}], (0, 1)),
        ({"launcher": "ray", "ray": {"num_gpus": 0.5}}, [{"CPU": 32, "GPU": 4}], (0.5, 4)),
    ],
)
def test_a_cell_on_ray_takes_a_gpu_for_each_rank(options, nodes, needs):
    asked = _needs(RunOptions(**options), nodes)
    assert (asked["num_gpus"], asked["num_cpus"]) == needs


def test_a_launcher_needs_processes_of_their_own(run_tiny):
    with pytest.raises(ConfigError, match="launcher=ray needs isolate=True"):
        run_tiny("otam_frozen", launcher="ray")


def test_options_of_runs_without_a_launcher_are_as_before():
    options = RunOptions()
    assert (options.launcher, options.address, options.ray, options.slurm) == ("local", "", {}, {})
    assert set(FILES) == {"result.json", "predictions.npz", "cost.json", "plan.npz"}
    assert drive.ATTEMPTS > 1
