"""Names, labels and texts that try something: refused, or kept and shown as what they are."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from fold_search.search.cli import app
from fold_search.search.exporting.model_card import as_markdown
from fold_search.search.study.wording import printable
from fold_search.search.terminal import make_console
from tests.search.test_diagnose import LABELS, WrittenStudy, noisy

CLEAR = "\x1b[2J\x1b]0;owned\x07"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SQLITE_S_OWN = {"study.db-wal", "study.db-shm"}
HOSTILE = [
    "../../etc/passwd",
    "..",
    "'; DROP TABLE ledger_studies; --",
    "<script>alert(1)</script>",
    "[red]loud[/red] [link=http://elsewhere.example]here[/link] :skull:",
    "${HOME} $(reboot) `id` %s {0} {{7*7}}",
    "\U0001f480 \u200f\u05e9\u05dc\u05d5\u05dd caf\u00e9 \u540d\u524d",
    "a" * 256,
]
REFUSED = ["", " ", "a" * 257, "a" * 10_000, CLEAR, "\u202egnp.exe", "two\nlines", "a\tb", "\x9b31m", "\ud800", "a\x00"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def search(study: WrittenStudy, command: str, *options: str) -> str:
    """Run a command on the study and return what it prints."""
    result = run(command, "--study", study.name, "--storage", study.url, *options)
    assert result.exit_code == 0, result.output
    return result.output


def squeezed(text: str) -> str:
    """Without the spaces and frames of a table that was wrapped."""
    return re.sub(r"[\s│]", "", text)


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_name_that_nobody_could_keep_or_read_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One line that holds none of it raw, exit code 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    rows = [f"text {number},{'ab'[number % 2]}" for number in range(12)]
    Path("data.csv").write_text("\n".join(["text,label", *rows, ""]))
    study = {"data": {"path": "data.csv", "label": "label", "text": "text"}, "model": {"encoder": "none"}}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    result = run("run", "--study", name, "--config", "study.yaml")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: --study: found ")
    assert OBEYED.search(line) is None
    assert len(line) < 200
    assert not Path("studies").exists()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_tries_something_is_kept_and_shown_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In tables, JSON and the report, whose folder is in `studies/reports` whatever the name is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    study = WrittenStudy(tmp_path, LABELS, name=name)
    study.add_trial(noisy(len(LABELS)))
    assert squeezed(f"study {name} (interrupted)") in squeezed(search(study, "status"))
    assert name in run("list", "--storage", study.url).output
    assert json.loads(search(study, "status", "--json"))["study"] == name
    assert squeezed(printable(name)) in squeezed(search(study, "diagnose"))
    [folder] = Path("studies/reports").iterdir()
    assert re.fullmatch(r"[a-zA-Z0-9_.-]{2,90}-trial-0", folder.name)
    page = Shown((folder / "index.html").read_text(encoding="utf-8"))
    assert printable(name) in page.text
    assert "script" not in page.tags
    assert {path.name for path in tmp_path.iterdir()} - SQLITE_S_OWN == {"study.db", "data.csv", "artifacts", "studies"}


def test_labels_and_columns_cannot_steer_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`search init` shows the ones and refuses the others without what would clear the screen."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{CLEAR} text {number},{CLEAR}[red]{'ab'[number % 2]}[/red]" for number in range(12)]
    Path("data.csv").write_text("\n".join([f"te{CLEAR}xt,label", *lines, ""]))
    shown = run("init", "--no-probe", "data.csv", "--label", "label", "--text", f"te{CLEAR}xt").output
    assert "[red]a[/red]" in shown
    refused = run("init", "--no-probe", "data.csv", "--label", f"la{CLEAR}", "--text", "text")
    assert refused.exit_code == 2
    assert OBEYED.search(shown + refused.output) is None


def test_a_console_obeys_nothing_that_it_is_given(monkeypatch: pytest.MonkeyPatch):
    """Strings, cells of tables and styled text; its own colours stay."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = make_console()
    console.file = io.StringIO()
    table = Table("a", title=CLEAR)
    table.add_row(f"[bold]{CLEAR}[/bold]")
    for renderable in (CLEAR, table, Text(CLEAR, style="red"), ":skull: \u202e"):
        console.print(renderable)
    printed = console.file.getvalue()
    assert "[bold]�[2J�]0;owned" in printed
    assert ":skull: �" in printed
    assert "\x1b[2J" not in printed
    assert "\x1b]0" not in printed


@pytest.mark.parametrize("name", [*HOSTILE, "a|b", "*a* _b_ `c`", "[x](javascript:alert(1))", "&lt;", "a\\", "# x"])
def test_a_model_card_shows_names_as_they_are(name: str):
    """Rendered as Markdown, in a heading and in a table's cell."""
    page = Shown(
        MarkdownIt().enable("table").render(f"# {as_markdown(name)}: x\n\n| a |\n| --- |\n| {as_markdown(name)} |\n")
    )
    assert page.tags == ["h1", "table", "thead", "tr", "th", "tbody", "tr", "td"]
    assert page.text.count(name.strip()) == 2


class Shown(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data
