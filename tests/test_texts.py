"""Names are text: hostile strings through every output, read back by parsers that are not ours."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shlex
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text as RichText
from stores import make_plan, predictions, store

from fsar_bench.config.settings import Choices
from fsar_bench.data.dataset import Dataset
from fsar_bench.errors import ConfigError, DataError, FsarBenchError, ResultError
from fsar_bench.io import digest, to_json
from fsar_bench.leaderboard import tables
from fsar_bench.leaderboard.files import generated_files, read_boards, write_tables
from fsar_bench.leaderboard.merge import merge_results
from fsar_bench.leaderboard.page import write_page
from fsar_bench.plan import EpisodePlan, digest_of_names
from fsar_bench.results.plans import checked_plan
from fsar_bench.results.store import read
from fsar_bench.texts.characters import fault_of, plain
from fsar_bench.texts.console import PlainConsole
from fsar_bench.texts.escapes import csv_cell, markdown
from fsar_bench.texts.terminal import PlainStream, plain_output

ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
ESCAPE = "\x1b]0;title\x07\x1b[31mred\x1b[2J"
HOSTILE = [  # one-line texts: a record may hold them
    '=HYPERLINK("http://evil.example/?x="&A1,"click")', "@SUM(1+1)*cmd|' /C calc'!A0", "+1", "-2+3", " =1", "＝1＋1", "－1",
    "＠x",
    "[a](http://evil.example)", "![a](http://evil.example/p.png)", "[a]: http://evil.example", "www.evil.example",
    "https://evil.example", "*a* **b** ***c***", "_a_ __b__", "~a~ ~~b~~", "`code` ``more``", "$x$ $$y$$ $\\frac{",
    "# heading #", "a | b || c", "\\", "\\\\|", "a\\*b*", "&amp; &#60;script&#62; &lt;b&gt;", "1. one", "- item", "--- ",
    "\\input{/etc/passwd} ^^M %", "\\end{tabular}\\end{table}", "{}}{", "'; x(); '", '" onload="x()', '"""', "'''",
    '\\"""+__import__("os").system("x")+"""', "$(touch x) `touch x` ; | &", "%n %s {0} {x}", "[red]x[/] [/]", ":100:",
    "fsar-bench:begin -- fsar-bench:end", "@everyone #123 a@evil.example", "ünïcödé 动作 😀 العربية",
]  # fmt: skip
WORSE = [
    "<script>x()</script>",
    "<!-- fsar-bench:end -->",
    "<img src=http://evil.example>",
    "</table>",
    "<a@evil.example>",
]  # of a user's own file


def acting(text: str, besides: str = "\n") -> set[str]:
    return {f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in ACTING and c not in besides}


# Characters --------------------------------------------------------------------------------------------------------------------


def test_every_character_of_unicode_is_shown_or_refused():
    numbers = [*range(0x20000), *range(0x20000, sys.maxunicode, 499), *range(0xE0000, 0xE0200), sys.maxunicode]
    every = [chr(number) for number in numbers]
    assert {unicodedata.category(c) for c in every} >= ACTING | {"Co", "Cn", "Zs", "Mn", "So"}
    odd = {c for c in every if unicodedata.category(c) in ACTING}
    assert {c for c in every if plain(c) != c} == odd - set("\n\t")
    assert {c for c in every if fault_of(c)} == odd | set("<>")
    assert not acting(plain("".join(every)), besides="\n\t")
    assert plain("\x1b \x9b \u202e \U000e0041 \ud800") == r"\x1b \x9b \u202e \U000e0041 \ud800"


@pytest.mark.parametrize(
    "character", ["\x1b", "\x85", "\u202e", "\u2066", "\u200b", "\ufeff", "\u00ad", "\u2028", "\U000e0041", "\n"]
)
def test_a_text_names_the_character_that_it_may_not_hold(character):
    with pytest.raises(
        ConfigError, match=rf"title=.*must be one line without the character U\+{ord(character):04X}"
    ) as error:
        Choices.of({"title": f"a{character}b"})
    assert not acting(str(error.value))
    for text in HOSTILE:
        assert Choices.of({"title": text}).title == text


def test_errors_are_plain_wherever_they_are_shown():
    assert str(DataError(f"clip {ESCAPE}")) == r"clip \x1b]0;title\x07\x1b[31mred\x1b[2J"
    assert issubclass(DataError, FsarBenchError)


# Tables ------------------------------------------------------------------------------------------------------------------------


def hostile_store(root: Path, texts: list[str], plan: EpisodePlan | None = None) -> list[Path]:
    """Results with a hostile text in each place of a record where one may be: of each result another, all of one board."""
    plan, folders = plan or make_plan(episodes=10), []
    for number, text in enumerate(texts):
        folder = store(
            root,
            f"m{number}",
            predictions(plan, 0.9 - number / 100, number),
            plan,
            title=text,
            reader=texts[0],
            pairs=True,
        )
        record = json.loads((folder / "result.json").read_text())
        label, identity = record["cell"]["label"], record["cell"]["identity"]
        label |= {"paper": text, "dataset": texts[0], "changed": {"method.x": text, "matcher": text}}
        record["backbone"]["pretraining"] = text
        record["config_hash"] = digest(identity)
        (folder / "result.json").write_bytes(to_json(record))
        folders.append(folder)
    head = "method,venue,year,backbone,pretraining,dataset,way,shot,accuracy,source,cited,our_method,our_backbone,our_dataset"
    lines = io.StringIO()
    for text in texts:
        csv.writer(lines).writerow([text] * 6 + [2, 1, 50.0, text, "no", "m0", "b", "toy"])
    (root / "published.csv").write_text(f"{head}\n{lines.getvalue()}", newline="")
    return folders


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, str]:
    """Text of all files of boards with hostile texts; each text is once the dataset's title."""
    out: dict[str, str] = {}
    for first in range(0, len(HOSTILE), 20):
        root = tmp_path_factory.mktemp("store")
        hostile_store(root, HOSTILE[first : first + 20])
        boards = read_boards(root)
        out |= {f"{first}/{path.name}": text for path, text in generated_files(root, boards)}
        out[f"{first}/notebook.html"] = tables.html(boards[0])
        if not first:
            out[f"{first}/page.html"] = write_page(root / "page.html", boards, []).read_text()
    return out


def test_markdown_shows_hostile_texts_as_they_are(outputs):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    ours = re.compile(r"[\w.@-]+\.md")
    shown = []
    for name, text in outputs.items():
        if not name.endswith(".md"):
            continue
        assert not acting(text)
        assert text.count(tables.BEGIN) == text.count(tables.END) == 1
        tokens = parser.parse(text)
        for token in tokens:
            if token.type == "html_block":
                assert token.content.strip() in (tables.BEGIN, tables.END)
            assert token.type not in ("code_block", "fence", "hr", "blockquote_open")
            for child in token.children or []:
                assert child.type in (
                    "text",
                    "softbreak",
                    "strong_open",
                    "strong_close",
                    "link_open",
                    "link_close",
                    "text_special",
                ), (name, token.content)
                assert child.type != "link_open" or ours.fullmatch(str(child.attrs["href"]))
            if token.type == "inline":
                whole = "".join(child.content for child in token.children)
                shown.append(whole)
                bold = re.findall(r"\*\*", token.content.replace(r"\*", ""))
                assert len(bold) in (0, 2)
        heights = {
            len(row.split("<td")) for row in re.findall(r"<tr>.*?</tr>", parser.render(text), re.DOTALL) if "<td" in row
        }
        assert len(heights) <= 6  # boards, verdicts, figures, overviews: a bar in a text would make more kinds of rows
    whole = set(shown)
    for text in HOSTILE:
        assert any(text.strip() in each for each in whole), text


@pytest.mark.parametrize("text", [*HOSTILE, *WORSE])
def test_one_escape_serves_headings_lists_cells_and_paragraphs(text):
    parser, escaped = MarkdownIt("commonmark").enable(["table", "strikethrough"]), markdown(text)
    for page in (f"# {escaped}", f"- best {escaped}", f"| a | b |\n|:--|:--|\n| {escaped} | end |", f"So: {escaped}"):
        children = [child for token in parser.parse(page) for child in token.children or []]
        assert {child.type for child in children} <= {"text", "text_special"}
        assert text.strip() in "".join(child.content for child in children)
    assert not re.search(r"(?<!\\)://|(?i:\bwww\.)", escaped)  # GitHub makes links of these


def test_no_cell_of_the_csv_is_a_formula_and_its_texts_come_back(outputs):
    titles = set()
    for name, text in outputs.items():
        if name.endswith(".csv"):
            for row in csv.DictReader(io.StringIO(text, newline="")):
                titles |= {row["title"].removeprefix("'"), row["paper"].removeprefix("'")}
                for cell in row.values():
                    is_number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)
                    assert is_number or unicodedata.normalize("NFKC", cell).lstrip()[:1] not in (*"=+-@",), cell
    assert set(HOSTILE) <= titles
    assert csv_cell("\tx") == "'\tx"
    assert csv_cell("a=1") == "a=1"


def test_latex_holds_no_command_of_a_text(outputs):
    known = {
        "begin",
        "end",
        "centering",
        "small",
        "caption",
        "toprule",
        "midrule",
        "bottomrule",
        "pm",
        "textbf",
        "usepackage",
    }
    known |= {f"text{name}" for name in ("asciitilde", "asciicircum", "backslash", "less", "greater")}
    for name, text in outputs.items():
        if name.endswith(".tex"):
            body = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
            body = body.replace("\\\\\n", "\n")
            body = re.sub(r"\\[&%$#_{}]", "", body)
            assert set(re.findall(r"\\([A-Za-z]+|.)", body)) <= known
            assert not re.search(r"[%#_^~]", body)
            assert not body.replace(r"$\pm$", "").count("$")
            assert body.count("{") == body.count("}")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.data = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.data.append(data)


def test_html_and_json_hold_texts_as_data(outputs):
    for name, text in outputs.items():
        if name.endswith("notebook.html"):
            parser = _Tags()
            parser.feed(text)
            assert set(parser.tags) <= {"div", "p", "b", "br", "table", "thead", "tbody", "tr", "th", "td"}
            assert parser.attributes <= {"class", "border", "style"}
        if name.endswith(".json"):
            assert {row["paper"] for board in json.loads(text) for row in board["rows"]} <= set(HOSTILE)
    parser = _Tags()
    parser.feed(outputs["0/page.html"])
    assert parser.tags.count("script") == 3
    assert not [name for name in parser.attributes if name.startswith("on")]
    data = next(json.loads(each) for each in parser.data if each.startswith('{"version"'))
    assert data["boards"][0]["title"].startswith(HOSTILE[0])


def test_pages_with_hostile_texts_are_written_twice_alike(tmp_path):
    hostile_store(tmp_path, ["fsar-bench:end", "a"])
    write_tables(tmp_path, read_boards(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    write_tables(tmp_path, read_boards(tmp_path))
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}


# The terminal ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", f"methods={ESCAPE}"), ("run", f"{ESCAPE}=1"), ("run", "dataset=\u202e.py"), ("show", ESCAPE),
        (f"no{ESCAPE}",), (f"--no{ESCAPE}",), ("leaderboard", f"out={ESCAPE}"), ("data", "stats", ESCAPE),
        ("data", "verify", "\u202ex", "--workers", f"x{ESCAPE}"), ("explain", ESCAPE, "--episode", "\x9b1m"),
        ("results", "merge", ESCAPE), ("list", ESCAPE), ("cache", "clear", ESCAPE), ("compare", ESCAPE, "\r"),
    ],
    ids=lambda arguments: "-".join(arguments[:2]).encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
def test_no_argument_reaches_the_terminal_as_it_is(fsar, arguments):
    done = fsar(*arguments)
    assert done.returncode
    assert not acting(done.stdout + done.stderr)
    assert sys.stdout.__class__ is not PlainStream  # as it was


def test_results_with_hostile_texts_are_shown_as_they_are(fsar, tmp_path):
    texts = [*HOSTILE[:3], "[red]x[/] [/]", "$(touch x) `touch x` ; | &", ":100:"]
    folder = hostile_store(tmp_path / "leaderboards", texts)[-2]
    shown = fsar("show", str(folder))
    assert shown.returncode == 0
    assert texts[-2] in shown.stdout
    assert fsar("leaderboard").returncode == 0
    compared = fsar("compare", "m0", "m3")
    assert compared.returncode == 0
    assert "[red]x[/] [/]" in compared.stdout


def test_consoles_pass_on_their_own_codes_alone():
    screen = io.StringIO()
    console = PlainConsole(file=screen, force_terminal=True, color_system="standard", width=200)
    table = Table(title=f"t{ESCAPE}")
    table.add_column(f"c{ESCAPE}", style="green")
    table.add_row(f"[red]{ESCAPE}")
    table.add_row(RichText(f"\u202e{ESCAPE}"))
    with console.status(f"doing {ESCAPE}"):
        console.print(table, f"[bold]{ESCAPE}", f":100: {ESCAPE}")
        console.print("[bold]b[/]", markup=True)
    text = screen.getvalue()
    rest = re.sub(r"\x1b\[[\d;?]*[A-Zmhl]", "", text).replace("\r", "")
    assert not acting(rest)
    assert rest.count(r"\x1b[31mred\x1b[2J") >= 6
    assert "\x1b[2J" not in text
    assert "\x1b[31m" not in text
    assert "[red]" in rest
    assert ":100:" in rest
    assert "\x1b[1mb" in text


def test_a_stream_shows_what_a_terminal_would_obey():
    below = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    stream = PlainStream(below)
    assert stream.write(f"a{ESCAPE}\rb\n") == len(f"a{ESCAPE}\rb\n")
    stream.writelines(["\r 50 %", "\u202e"])  # a bar of a library
    stream.flush()
    assert below.buffer.getvalue().decode() == "a" + r"\x1b]0;title\x07\x1b[31mred\x1b[2J" + "\\x0db\n\r 50 %\\u202e"
    assert not hasattr(stream, "buffer")
    with pytest.raises(TypeError, match="bytes"):
        stream.write(b"x")


def test_output_is_cleaned_within_a_context_alone(capsys):
    before = sys.stdout
    with plain_output(), plain_output():
        print("\x1b", file=sys.stderr)
        print("\x1b")
    assert sys.stdout is before
    assert capsys.readouterr() == ("\\x1b\n", "\\x1b\n")


# Plans and annotations ---------------------------------------------------------------------------------------------------------


def rename(folder: Path, change) -> None:
    """Change the class names of a stored plan."""
    path = read(folder).plan_file
    with np.load(path) as file:
        arrays = dict(file)
    names = json.loads(arrays["names"].tobytes())
    arrays["names"] = np.frombuffer(json.dumps(change(names)).encode(), np.uint8)
    with path.open("wb") as out:
        np.savez_compressed(out, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names[::-1], "names other classes"),
        (lambda names: names[:-1], "names other classes"),
        (lambda names: [*names, "more"], "names other classes"),
        (lambda names: ["\u202ec0", *names[1:]], "U\\+202E"),
        (lambda names: ["A" * 200_000, *names[1:]], "has 200000 characters"),
        (lambda names: [0, *names[1:]], "no list of texts"),
        (lambda names: {}, "no list of texts"),
    ],
    ids=["swapped", "fewer", "more", "bidirectional", "endless", "numbers", "no list"],
)
def test_class_names_of_a_plan_are_those_of_the_record(tmp_path, change, message):
    plan = make_plan(episodes=10)
    folder = store(tmp_path, "m", predictions(plan, 0.9, 0), plan)
    assert checked_plan(read(folder)).names == plan.names
    rename(folder, change)
    with pytest.raises(ResultError, match=message) as error:
        checked_plan(read(folder))
    assert len(str(error.value)) < 1000
    assert merge_results([tmp_path], tmp_path / "out").problems


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "wave\u202e"}, "the class name 'wave.u202e' must be one line without the character U\\+202E"),
        ({"name": "wave\u200dhand"}, "the class name .* without the character U\\+200D"),
        ({"name": "<wave>"}, "the class name '<wave>' must be one line without < and >"),
        ({"name": "w" * 301}, "the class name 'w+…' has 301 characters: at most 300 are allowed"),
        ({"text": "wave\x1b[31m"}, "the text .* of the class 'wave' must be one line without the character U\\+001B"),
        ({"text": "w" * 301}, "the text .* of the class 'wave' has 301 characters"),
        ({"name": "می روم", "text": "می\u200cروم 👩\u200d🚀"}, None),
        ({"text": 'Pretending to put [something] behind [something] -- "x" & y'}, None),
    ],
)
def test_classes_of_an_annotation_are_names_and_texts(tmp_path, row, message):
    classes = [{"name": "wave", "text": "waving", "split": "test"} | row]
    clips = [{"id": "\u202eid", "class": classes[0]["name"], "path": "\x1b[31m.mp4"}]  # these may be anything
    (tmp_path / "a.json").write_text(json.dumps({"classes": classes, "clips": clips}))
    if message is None:
        assert Dataset("mine", str(tmp_path / "a.json")).split("test").texts == (classes[0]["text"],)
        return
    with pytest.raises(DataError, match=message) as error:
        Dataset("mine", str(tmp_path / "a.json"))
    assert not acting(str(error.value))


def test_merge_keeps_one_set_of_class_names_per_plan(tmp_path):
    plan = make_plan(episodes=10)
    for number, name in enumerate(("here", "there")):
        store(tmp_path / name, f"m{number}", predictions(plan, 0.9, number), plan)
    (folder,) = (tmp_path / "there" / "results").glob("*/*/*")
    rename(folder, lambda names: [f"x{name}" for name in names])
    record = json.loads((folder / "result.json").read_text())
    record["data"]["class_names"] = digest_of_names([f"x{name}" for name in plan.names])
    (folder / "result.json").write_bytes(to_json(record))
    assert checked_plan(read(folder)).names[0] == "xc0"  # sound by itself
    outcome = merge_results([tmp_path / "here", tmp_path / "there"], tmp_path / "out")
    assert "other class names" in outcome.problems[0]
    assert not (tmp_path / "out").exists()
    outcome = merge_results([tmp_path / "there"], tmp_path / "here")
    assert "other class names" in outcome.problems[0]


# Commands and programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_a_title_stays_in_the_docstring_of_a_training(text):
    from fsar_bench.engine.training import head_of

    class Cell:
        def __str__(self) -> str:
            return text

    (only,) = ast.parse(head_of(Cell())).body
    assert isinstance(only, ast.Expr)
    assert isinstance(only.value, ast.Constant)


def test_settings_of_a_record_are_no_options_of_a_command(tmp_path):
    from fsar_bench.results.command import command_of

    folder = hostile_store(tmp_path, ["$(touch x) `touch x` ; | &"])[0]
    words = shlex.split(str(command_of(read(folder).result, {})))
    assert words[:2] == ["fsar-bench", "run"]
    assert "method.x=$(touch x) `touch x` ; | &" in words
    record = json.loads((folder / "result.json").read_text())
    record["cell"]["label"]["changed"] = {"--help": "x"}
    (folder / "result.json").write_bytes(to_json(record))
    with pytest.raises(ResultError, match="changed"):
        read(folder)
