"""`odeopt verify`: what it says, how it ends, and what it writes."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_cli import MY_FLOW, run
from test_cli_errors import PRESS, refused

import odeopt.plot
from odeopt._cli.verify import telling

UPHILL = MY_FLOW.replace("-self.friction * v - g", "-self.friction * v + g")
# Its verdict takes no time, because nothing of it can be evaluated.
UNUSABLE = MY_FLOW.replace("odeopt.State(state.memory, force)", "odeopt.State(state.memory, 1.0)")


def words(text: str) -> str:
    """A text without the breaks that depend on the width of the terminal."""
    return " ".join(text.split())


def written(folder: Path, text: str) -> str:
    """The name of a flow in a new file of a folder."""
    (folder / "my flow.py").write_text(text)
    return f"{folder / 'my flow.py'}:MyFlow"


@pytest.fixture
def unusable(tmp_path):
    return written(tmp_path, UNUSABLE)


def others(folder: Path) -> list[str]:
    """What a folder holds besides the flow."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("my flow.py", "__pycache__"))


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    return folder, run("verify", "HeavyBall(friction=0.5)", "--out", folder / "ball.md")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    return folder, run("verify", written(folder, UPHILL), "--out", folder / "reports" / "mine")


def test_a_right_flow_ends_with_zero(right):
    _, outcome = right
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.startswith("HeavyBall(friction=0.5): verified (")
    for title in ("Declaration", "Energy in continuous time", "Order of ExponentialEuler", "Discrete equivalent"):
        assert f"\n{title}\n" in outcome.stdout
    assert "FAIL" not in outcome.stdout


def test_nothing_is_told_where_no_terminal_looks(right):
    _, outcome = right
    assert outcome.stderr == ""


def test_the_report_is_in_the_file_and_its_pictures_beside_it(right):
    folder, outcome = right
    assert sorted(path.name for path in folder.iterdir()) == ["ball.md", "ball.png"]
    text = (folder / "ball.md").read_text(encoding="utf-8")
    assert text.startswith("# HeavyBall(friction=0.5): verified (")
    assert "![The pictures of all sections](<ball.png>)" in text
    assert (folder / "ball.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert outcome.stdout.splitlines()[-1] == f"The report is in {folder / 'ball.md'}."


def test_a_wrong_flow_ends_with_one_and_names_the_check_and_the_reason(wrong):
    _, outcome = wrong
    assert outcome.exit_code == 1
    assert outcome.stdout.startswith("MyFlow(friction=1.0): ")
    assert "checks failed" in outcome.stdout.splitlines()[0]
    assert "FAIL sign of dV/dt dV/dt > 0 at" in words(outcome.stdout)
    assert "With the opposite sign of the gradient in vector_field" in words(outcome.stdout)


def test_a_folder_holds_the_report_and_the_pictures(wrong):
    folder, _ = wrong
    assert others(folder) == ["reports"]
    assert sorted(path.name for path in (folder / "reports" / "mine").iterdir()) == ["report.md", "report.png"]
    text = (folder / "reports" / "mine" / "report.md").read_text(encoding="utf-8")
    assert "![The pictures of all sections](<report.png>)" in text
    assert "| FAIL | sign of dV/dt |" in text


def test_a_flow_that_cannot_be_evaluated_has_failed(unusable):
    outcome = run("verify", unusable)
    assert outcome.exit_code == 1
    assert outcome.stdout.startswith("MyFlow(friction=1.0): 1 check failed")
    assert "MyFlow.vector_field: memory" in words(outcome.stdout)


def test_a_recommendation_that_fails_is_a_failed_check(tmp_path):
    method = "\n    def recommended(self):\n        raise LookupError('no scheme fits')\n"
    outcome = run("verify", written(tmp_path, MY_FLOW + method))
    assert outcome.exit_code == 1
    assert "LookupError: no scheme fits" in words(outcome.stdout)


def test_report_of_another_kind_is_refused_before_the_work(tmp_path):
    message = refused(tmp_path, "verify", "HeavyBall", "--out", tmp_path / "report.txt")
    assert "report.txt is neither FILE.md nor the name of a folder" in message


def test_quiet_prints_the_verdict_and_nothing_else(unusable):
    outcome = run("verify", unusable, "--quiet")
    assert re.fullmatch(r"MyFlow\(friction=1\.0\): 1 check failed \(\d+ s\)\n", outcome.output)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adamant"], "'adamant' is no flow of odeopt. Did you mean Adam? Available are "),
        (["HeavyBall(friction=-1)"], "friction must be >= 0"),
        (["absent.py:MyFlow"], "absent.py does not exist"),
        (["HeavyBall", "--scheme", "adamant"], "'adamant' is no scheme of odeopt"),
        (["HeavyBall", "--controller", "ConstantStep"], "missing a required argument: 'step_size'"),
        (["HeavyBall", "--controller", "LyapunovControl(rate='quadrature')"], "do not fit together"),
        ([], "Missing argument 'FLOW'"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, arguments, expected):
    assert expected in refused(tmp_path, "verify", *arguments, "--out", tmp_path / "report.md")


@pytest.mark.parametrize(("text", "expected"), [("class MyFlow(", "SyntaxError"), ("import odeopt", "does not exist")])
def test_a_file_that_cannot_be_read_is_explained(tmp_path, text, expected):
    flow = written(tmp_path, text)
    assert expected in refused(tmp_path, "verify", flow, "--out", tmp_path / "report")


@pytest.mark.parametrize(
    ("there", "out"), [("report.md", "report.md"), ("report.png", "report.md"), ("reports/old.md", "reports")]
)
def test_a_report_never_overwrites_anything(tmp_path, unusable, there, out):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("precious")
    assert "exists already" in refused(tmp_path, "verify", unusable, "--out", tmp_path / out)


@pytest.mark.parametrize("out", ["absent/report.md", "my flow.py/report.md", "my flow.py/report"])
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, unusable, out):
    message = refused(tmp_path, "verify", unusable, "--out", tmp_path / out)
    assert "Choose another place with --out." in message


def test_the_place_is_looked_at_before_the_work(tmp_path, monkeypatch):
    def verify(*arguments, **options):
        raise AssertionError("verified although the report cannot be written")

    monkeypatch.setattr("odeopt._cli.verify.verify", verify)
    (tmp_path / "report.md").write_text("precious")
    refused(tmp_path, "verify", "HeavyBall", "--out", tmp_path / "report.md")


@pytest.mark.parametrize("out", ["report.md", "folder"])
def test_nothing_is_written_where_the_pictures_fail(tmp_path, unusable, monkeypatch, out):
    def report(report):
        raise MemoryError

    monkeypatch.setattr(odeopt.plot, "report", report)
    with pytest.raises(MemoryError):
        run("verify", unusable, "--out", tmp_path / out)
    assert others(tmp_path) == []


def test_a_file_that_has_come_meanwhile_is_not_touched(tmp_path, unusable, monkeypatch):
    original = odeopt.plot.report

    def report(report):
        (tmp_path / "report.md").write_text("precious")
        return original(report)

    monkeypatch.setattr(odeopt.plot, "report", report)
    outcome = run("verify", unusable, "--out", tmp_path / "report.md")
    assert outcome.exit_code == 2
    assert "cannot be written" in outcome.stderr
    assert others(tmp_path) == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "precious"


def test_ctrl_c_before_the_verdict_leaves_one_line_and_nothing_else(tmp_path):
    flow = written(
        tmp_path, "import os, signal\n" + MY_FLOW.replace("        force =", f"        {PRESS}\n        force =")
    )
    command = [Path(sys.executable).with_name("odeopt"), "verify", flow, "--out", "new/report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "odeopt: interrupted before the verdict; nothing has been written.\n"
    assert others(tmp_path) == []


def test_a_terminal_shows_what_is_being_checked_on_one_line():
    stream = io.StringIO()
    tell = telling(Console(file=stream, force_terminal=True, width=40))
    tell("Energy in discrete time, SemiImplicitEuler under LyapunovControl")
    tell("")
    line, end = stream.getvalue().removeprefix("\r\x1b[K").split("\r\x1b[K")
    assert line.startswith("checking: Energy in discrete time")
    # A line as long as the terminal would be broken, and half of it stay.
    assert len(line) == 39
    assert end == ""
