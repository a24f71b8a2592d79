"""The layout: which room may import which, what the engine may not know, and how long functions of the main path are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fsar_bench
from fsar_bench.config.files import names
from fsar_bench.config.settings import LOG_BACKENDS

ROOT = Path(fsar_bench.__file__).parent
METHODS = Path(__import__("fsar_bench.methods").methods.__file__).parent

GROUND = {"errors", "io", "processes", "randomness", "registry", "storage", "texts", "writing"}
MAY_IMPORT = {  # room: the rooms that it may import; arrows point down
    "texts": set(),
    "errors": {"texts"},
    "randomness": set(),
    "processes": {"errors", "writing"},
    "writing": {"errors"},
    "io": {"errors", "progress", "writing"},
    "storage": {"errors", "io", "progress", "writing"},
    "cache": {"errors", "io", "writing"},
    "registry": {"errors", "io", "randomness"},
    "progress": {"texts"},
    "config": GROUND,
    "plan": GROUND,
    "matching": GROUND | {"layers"},
    "layers": GROUND,
    "backbones": GROUND | {"layers"},
    "method": GROUND | {"config", "backbones", "layers"},
    "testing": GROUND | {"method", "backbones", "matching"},
    "data": GROUND | {"plan"},
    "results": GROUND | {"progress", "config", "plan"},
    "engine": GROUND
    | {"progress", "config", "plan", "matching", "layers", "backbones", "method", "testing", "data", "results"},
    "leaderboard": GROUND | {"progress", "config", "plan", "results"},
    "explain": GROUND | {"config", "plan", "matching", "method", "data", "results", "engine"},
    "api": GROUND | {"progress", "config", "results", "engine", "leaderboard", "method"},
    "cli": GROUND | {"cache", "progress", "config", "plan", "data", "results", "engine", "leaderboard", "explain"},
}
OTHER_MEANINGS = {"data/importing/layout.py": {"trn"}}  # file: names of methods that mean something else there: "train"
OF_METHODS = GROUND | {"backbones", "layers", "matching", "method"}
LIGHT = (
    "cache",
    "cli",
    "config",
    "io",
    "plan",
    "progress",
    "results",
    "leaderboard",
    "storage",
    "api",
    "texts",
    "writing",
)  # import no torch when they are imported
MAIN_PATH = [
    *(ROOT / "engine").glob("*.py"), *(ROOT / "config").glob("*.py"), *(ROOT / "results").glob("*.py"),
    *(ROOT / "progress").glob("*.py"), ROOT / "cli" / "run.py", ROOT / "api.py", ROOT / "plan.py", ROOT / "registry.py",
]  # fmt: skip


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "methods" not in path.parts and "configs" not in path.parts)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Our modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name.startswith("fsar_bench"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fsar_bench"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                exists = (ROOT.parent / (whole.replace(".", "/") + ".py")).exists()
                yield (whole if exists or node.module == "fsar_bench" else node.module), node


def test_arrows_point_down():
    wrong = []
    for path in sources():
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for module, node in imports(path):
            target = room_of(module)
            if target not in (room, "__init__", "__version__") and target not in MAY_IMPORT[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert not wrong


def test_rooms_and_modules_have_no_cycles():
    list(TopologicalSorter(MAY_IMPORT).static_order())  # raises CycleError
    graph: dict[str, set[str]] = {}
    for path in sources():
        name = ".".join(["fsar_bench", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        for node in [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]:
            tree.body.remove(node)
        graph[name] = {
            module
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for module in [node.module or ""]
            if module.startswith("fsar_bench.") and module != name
        }
    list(TopologicalSorter(graph).static_order())


def test_methods_import_only_the_engine_never_each_other():
    for path in METHODS.glob("*.py"):
        if path.stem != "__init__":
            assert {room_of(module) for module, _ in imports(path)} <= OF_METHODS, path.name


def test_there_are_few_flat_modules():
    flat = [path.stem for path in ROOT.glob("*.py") if path.stem != "__init__"]
    assert len(flat) <= 10, flat


def test_the_engine_names_no_method():
    """Neither a config nor a class of a method stands in the code or the texts of `fsar_bench/`; examples in docstrings may."""
    classes = {
        node.name
        for path in METHODS.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and any("METHODS" in ast.unparse(d) for d in node.decorator_list)
    }
    assert len(classes) >= 8
    matching = {
        node.name
        for path in (ROOT / "matching").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    # A method may have the name of the function it matches with, and that of an experiment tracker.
    forbidden = classes | (set(names("methods")) - matching - set(LOG_BACKENDS))
    found = []
    for path in sources():
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
        }
        for node in ast.walk(tree):
            text = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                text = node.value
            elif isinstance(node, (ast.Name, ast.Attribute)):
                text = node.id if isinstance(node, ast.Name) else node.attr
            words = set(text.replace("=", " ").replace(",", " ").replace("'", " ").split())
            words -= OTHER_MEANINGS.get(path.relative_to(ROOT).as_posix(), set())
            if words & forbidden:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {words & forbidden}")
    assert not found


def test_functions_of_the_main_path_are_short():
    long = []
    for path in MAIN_PATH:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1
                if lines >= 40:
                    long.append(f"{path.name}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_all_files_are_written_through_io():
    """Only a batch renames; nothing else opens files of the store, the work folder or caches for writing."""
    for path in sources():
        text = path.read_text()
        if path != ROOT / "writing" / "batch.py":
            assert "os.replace(" not in text, path.name
            assert ".write_bytes(" not in text, path.name
            assert ".write_text(" not in text, path.name


def test_what_is_printed_is_plain():
    """Consoles come from `texts.console`; what goes by another way to a terminal is cleaned where it is printed."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or path.parent.name == "texts":
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert called != "Console", f"{path.name}:{node.lineno}"
            to = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords} if called == "print" else {}
            assert to.get("file", "sys.stderr") == "sys.stderr" or path.name == "screen.py", (
                f"{path.name}:{node.lineno}"
            )


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text: `open(path)`, `path.open()`, `path.open("a")` and the like."""
    is_function = isinstance(call.func, ast.Name) and call.func.id == "open"
    if not is_function and not (isinstance(call.func, ast.Attribute) and call.func.attr == "open"):
        return False
    modes = [*call.args[1 if is_function else 0 :][:1], *(k.value for k in call.keywords if k.arg == "mode")]
    if not modes:
        return True
    mode = modes[0].value if isinstance(modes[0], ast.Constant) else ""  # `reader.open(path)` opens no text
    return isinstance(mode, str) and 0 < len(mode) <= 3 and set(mode) <= set("rwxat+")


def test_text_is_utf_8_whatever_the_locale():
    """`io.read_text` reads what users wrote; whatever else opens text names the encoding."""
    texts = ("open(p)", "p.open()", "p.open('a')", "open(p, mode='w')")
    assert all(opens_text(ast.parse(call).body[0].value) for call in texts)
    assert not any(opens_text(ast.parse(call).body[0].value) for call in ("open(p, 'rb')", "r.open(p)", "p.open('wb')"))
    wrong = []
    for path in [*sources(), *METHODS.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            names_encoding = "encoding" in {keyword.arg for keyword in node.keywords}
            if (opens_text(node) or name in ("read_text", "write_text")) and not names_encoding:
                wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_import_torch_only_inside_functions(room):
    paths = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else (ROOT / room).rglob("*.py")
    heavy = {"torch", "mmengine", "mmaction", "open_clip", "timm", "decord", "cv2"}
    for path in paths:
        for node in ast.parse(path.read_text()).body:
            modules = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            assert not {module.split(".")[0] for module in modules} & heavy, path.name


TRACE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.mark.skipif(not TRACE.exists(), reason="CONTRIBUTING.md is not here (tests run from an installed wheel)")
def test_the_readers_trace_names_what_exists_in_at_most_twelve_files():
    section = TRACE.read_text().split("## Where things happen")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and ".py`" in line]
    files = [line.split("`")[1] for line in rows]
    assert 8 <= len(files) <= 12
    assert len(set(files)) == len(files)  # each is entered once
    for line, file in zip(rows, files, strict=True):
        code = (ROOT.parent / file).read_text()
        for name in filter(str.isidentifier, line.split("`")[3::2]):
            assert f"def {name}(" in code or f"class {name}" in code, f"{name} is not in {file}"
