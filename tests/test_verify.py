"""The whole verification in one call, and the report that it hands back."""

import io
import json
import re

import jax.numpy as jnp
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

import odeopt
import odeopt.plot
from odeopt import State
from odeopt._verify.check import Check, told
from odeopt._verify.report import Report, Section
from odeopt._verify.verify import _evaluation

PARTS = ("declaration", "energy", "order", "steps", "equivalence")


@pytest.fixture(scope="module")
def verified():
    """A report, and the titles that were told while it was made."""
    told: list[str] = []
    return odeopt.verify(odeopt.HeavyBall(friction=0.5), progress=told.append), told


def test_a_right_flow_passes_every_section(verified):
    report, _ = verified
    assert report.passed, str(report)
    assert tuple(section.part for section in report.sections) == PARTS
    assert "FAIL" not in report.to_markdown()


def test_every_section_is_told_before_it_is_carried_out(verified):
    report, told = verified
    assert told == [section.title for section in report.sections]


def test_the_report_names_what_was_verified(verified):
    report, _ = verified
    assert report.headline.startswith("HeavyBall(friction=0.5): verified (")


class HalfMissing(odeopt.AbstractFlow):
    """The kinetic energy without its factor 1/2."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return State(state.memory, -state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + jnp.sum(state.memory**2)


class Unusable(HalfMissing):
    def init(self, params):
        return State(params, None)


@pytest.fixture(scope="module")
def unusable():
    return odeopt.verify(Unusable())


def test_a_flow_that_cannot_be_evaluated_is_a_failed_report(unusable):
    assert not unusable.passed
    assert "Unusable.vector_field" in unusable.failures[0].message
    assert unusable.section("energy") is None


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((odeopt.HeavyBall,), {}, TypeError),
        ((odeopt.HeavyBall(friction=0.5), "problem"), {}, TypeError),
        ((odeopt.HeavyBall(friction=0.5),), {"scheme": "Heun"}, TypeError),
        ((odeopt.HeavyBall(friction=0.5),), {"controller": odeopt.LyapunovControl(rate="quadrature")}, ValueError),
    ],
)
def test_a_wrong_call_is_an_error_and_no_failed_report(arguments, options, error):
    with pytest.raises(error):
        odeopt.verify(*arguments, **options)


def words_of(figure: Figure) -> list[Text]:
    """All texts but the numbers along axes, of which matplotlib keeps some that it does not draw."""
    numbers = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text not in numbers]


def texts(figure: Figure) -> str:
    """All words on a page."""
    return "\n".join(text.get_text() for text in words_of(figure))


def cut_off(figure: Figure) -> list[str]:
    """The words that reach beyond the edge of a page."""
    # Drawn once, so that everything has its place.
    figure.savefig(io.BytesIO(), dpi=50)
    page = figure.bbox.padded(1)
    boxes = {text: text.get_window_extent() for text in words_of(figure)}
    return [text.get_text() for text, box in boxes.items() if not (page.contains(*box.min) and page.contains(*box.max))]


def test_the_page_shows_the_pictures_of_all_sections(verified):
    report, _ = verified
    figure = report.plot()
    assert isinstance(figure, Figure)
    # Three of the energy, one of the order, two of the steps, one of the equivalence, and the verdicts.
    assert len(figure.findobj(Axes)) == 8
    words = texts(figure)
    assert "HeavyBall(friction=0.5): verified" in words
    for section in report.sections[1:]:
        assert section.title in words
    assert "FAIL" not in words


def test_the_page_says_what_was_not_carried_out(unusable):
    words = texts(odeopt.plot.report(unusable))
    assert words.count("not carried out:\nthe declaration cannot be evaluated") == 4
    assert "Unusable.vector_field" in words


def test_the_page_says_which_section_broke_off_and_why(verified):
    report, _ = verified
    broken = Section("Order of Heun", (Check("carried out", False, "InaccurateReferenceError: stiff"),), part="order")
    sections = tuple(broken if section.part == "order" else section for section in report.sections)
    words = texts(Report("Mine", sections, 1.0).plot())
    assert "Mine: 1 check failed (1\N{NO-BREAK SPACE}s)" in words
    assert "Order of Heun: FAILED" in words
    assert "not carried out. InaccurateReferenceError: stiff" in words


LONG = " ".join(f"word{number}" for number in range(400))


@pytest.mark.parametrize("length", [40, 400])
def test_no_words_of_a_page_are_cut_off(verified, length):
    report, _ = verified
    message = " ".join(LONG.split()[:length])
    broken = Section("Order of Heun", (Check("carried out", False, message),), part="order")
    sections = tuple(broken if section.part == "order" else section for section in report.sections)
    figure = Report(f"Mine({', '.join('argument=0.123' for _ in range(12))})", sections, 1.0).plot()
    assert cut_off(figure) == []


def test_a_saved_report_links_its_pictures(tmp_path, unusable):
    unusable.save(tmp_path / "my report.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my report.md", "my report.png"]
    text = (tmp_path / "my report.md").read_text(encoding="utf-8")
    assert "![The pictures of all sections](<my report.png>)" in text
    assert (tmp_path / "my report.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_report_is_saved_without_pictures(tmp_path, unusable):
    unusable.save(tmp_path / "report.md", pictures=False)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == unusable.to_markdown()


def test_a_report_is_not_saved_over_its_own_pictures(tmp_path, unusable):
    with pytest.raises(ValueError, match="name the Markdown file"):
        unusable.save(tmp_path / "report.png")


def test_markdown_shows_formulas_as_they_are():
    check = Check("sign | rate", False, "<grad f, x'> has sqrt(v + e**2)\nin it")
    text = Report("Mine", (Section("Energy", (check,)),), 1.0).to_markdown()
    assert text.splitlines()[-1] == r"| FAIL | sign \| rate | \<grad f, x'> has sqrt(v + e\*\*2)<br>in it |"


@pytest.mark.parametrize("width", [80, 120])
def test_the_columns_of_all_sections_stand_below_each_other(verified, width):
    report, _ = verified
    console = Console(file=io.StringIO(), width=width)
    console.print(report)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for section in report.sections:
        for check in section.checks:
            line = next(line for line in lines if f"  {check.name[:20]}" in line)
            assert line.index(check.message[:10]) == 38, line


class Alone(odeopt.AbstractFlow):
    """Written for one array, as a first try often is."""

    def init(self, params):
        return odeopt.State(params, 0 * params)

    def vector_field(self, t, state, oracle):
        return odeopt.State(state.memory, -(state.memory**3) - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)


def test_a_flow_for_one_array_is_told_that_models_have_several():
    declaration, several = _evaluation(Alone(), None).checks
    assert declaration.passed
    assert several.passed is None
    assert "jax.tree.map" in several.message
    assert "test_verify.py, line" in several.message
    assert len(_evaluation(odeopt.HeavyBall(), None).checks) == 1


def test_an_error_is_told_with_the_place_in_the_users_code_and_not_in_a_library():
    with pytest.raises(ValueError, match="Expecting") as raised:
        json.loads("{")
    assert re.search(r"\(test_verify\.py, line \d+, in test_an_error", told(raised.value))


def test_a_flow_with_a_domain_asks_for_a_problem_that_starts_inside():
    report = odeopt.verify(odeopt.MirrorFlow(odeopt.Entropy()))
    assert not report.passed
    assert len(report.sections) == 1
    assert "the energy is infinite at the built-in start" in str(report)
