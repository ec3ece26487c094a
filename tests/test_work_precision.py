"""Work-precision diagrams: errors against closed forms, gradients against real counts, costs between step sizes."""

from dataclasses import replace

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.experimental import io_callback

import odeopt
import odeopt.plot
from odeopt import State

UNIT_BOWL = (lambda y, _: 0.5 * jnp.sum(y["w"] ** 2), {"w": jnp.asarray([1.0, -2.0])})
STEPS = (1, 2, 4, 8, 16, 32)
SETTLED = {"settling": 0.5, "duration": 1.0}
SHARED = [odeopt.Euler(), odeopt.Heun(), odeopt.Bosh3(), odeopt.Tsit5()]
THEIRS = [diffrax.Euler(), diffrax.Heun(), diffrax.Bosh3(), diffrax.Tsit5()]
# Units of rounding (2e-16) of a hundred operations; the reference is known to 1e-13.
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def on_heavy_ball():
    flow = odeopt.HeavyBall(friction=0.5)
    return odeopt.work_precision(flow, UNIT_BOWL, schemes=SHARED, solvers=THEIRS, steps=STEPS, repeats=2, **SETTLED)


def stability_polynomial(order, matrix):
    """The exponential series up to `order`: the step of a scheme with as many stages as its order, on y' = M y."""
    terms = [np.eye(len(matrix))]
    for k in range(1, order + 1):
        terms.append(terms[-1] @ matrix / k)
    return sum(terms)


@pytest.mark.parametrize(("name", "order"), [("Euler", 1), ("Heun", 2), ("Bosh3", 3)])
def test_the_errors_are_those_of_the_stability_polynomial(on_heavy_ball, name, order):
    """Bosh3 has one stage more than its order, which is the first of the next step."""
    matrix = np.array([[0.0, 1.0], [-1.0, -0.5]])
    for index, steps in enumerate(STEPS):
        start, end = (np.outer(scipy.linalg.expm(t * matrix) @ [1.0, 0.0], [1.0, -2.0]) for t in (0.5, 1.5))
        arrived = np.linalg.matrix_power(stability_polynomial(order, matrix / steps), steps) @ start
        size = np.maximum(np.linalg.norm(start, axis=1), np.linalg.norm(end, axis=1))
        truth = np.linalg.norm((arrived - end) / size[:, None])
        error = on_heavy_ball.errors[on_heavy_ball.names.index(name), index]
        assert error == pytest.approx(truth, rel=1e-9, abs=ROUNDING)


@pytest.mark.parametrize("name", ["Euler", "Heun", "Bosh3", "Tsit5"])
def test_schemes_of_one_tableau_make_one_error(on_heavy_ball, name):
    ours, theirs = (on_heavy_ball.errors[on_heavy_ball.names.index(one)] for one in (name, f"diffrax.{name}"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("name", "first", "each"), [("Euler", 0, 1), ("Heun", 0, 2), ("Bosh3", 1, 3), ("Tsit5", 1, 6)])
def test_gradients_are_one_for_each_stage_and_a_shared_one_once(on_heavy_ball, name, first, each):
    ours, theirs = (on_heavy_ball.gradients[on_heavy_ball.names.index(one)] for one in (name, f"diffrax.{name}"))
    assert ours.tolist() == [first + each * steps for steps in STEPS]
    assert np.all(ours <= theirs)


def test_gradients_are_those_that_are_executed():
    """A second repeat of all runs evaluates as many gradients as the result says."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1

    @jax.custom_vjp
    def bowl(y):
        return 0.5 * jnp.sum(y**2)

    def backward(y, cotangent):
        io_callback(count, None)
        return (cotangent * y,)

    bowl.defvjp(lambda y: (bowl(y), y), backward)

    def executed(repeats):
        nonlocal calls
        jax.effects_barrier()
        calls = 0
        result = odeopt.work_precision(
            odeopt.GradientFlow(),
            (lambda y, _: bowl(y), jnp.ones(2)),
            schemes=[odeopt.Bosh3(), odeopt.Euler()],
            solvers=[diffrax.Bosh3()],
            steps=(1, 3),
            repeats=repeats,
        )
        jax.effects_barrier()
        return result, calls

    result, once = executed(1)
    _, twice = executed(2)
    assert twice - once == np.sum(result.gradients), str(result)


class LookAhead(odeopt.AbstractFlow):
    """Two gradients in each evaluation of the vector field."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        ahead = oracle.at(jax.tree.map(lambda x, g: x - 0.1 * g, state.position, oracle.gradient))
        return State(jax.tree.map(jnp.negative, ahead.gradient))

    def energy(self, t, state, oracle):
        return oracle.value


def test_a_vector_field_of_two_gradients_costs_two():
    result = odeopt.work_precision(
        LookAhead(),
        UNIT_BOWL,
        schemes={"mine": odeopt.Heun()},
        solvers={"its": diffrax.Heun()},
        steps=(1, 5),
        repeats=1,
    )
    assert result.names == ("mine", "diffrax.its")
    assert result.gradients.tolist() == [[4, 20], [4, 20]]


def test_what_a_flow_recommends_takes_part():
    result = odeopt.work_precision(odeopt.HeavyBall(friction=0.5), UNIT_BOWL, solvers=(), steps=(2,), repeats=1)
    assert result.names == ("Euler", "Heun", "Bosh3", "RK4", "Dopri5", "Tsit5", "ExponentialEuler")


def test_one_compilation_serves_all_step_sizes():
    found = []
    for steps in ((1, 2), (1, 2, 3, 4, 5)):
        traces = []

        def bowl(y, _, traces=traces):
            traces.append(None)
            return 0.5 * jnp.sum(y**2)

        odeopt.work_precision(
            odeopt.GradientFlow(),
            (bowl, jnp.ones(2)),
            schemes=[odeopt.Heun()],
            solvers=[diffrax.Heun()],
            steps=steps,
            repeats=1,
        )
        found.append(len(traces))
    assert found[0] == found[1] > 0


def by_hand(errors, timings=None):
    """A result of two contestants with 10, 20, 40 gradients."""
    gradients = np.array([[10, 20, 40], [10, 20, 40]])
    timings = 1e-3 * gradients[:, :, None] * np.ones(3) if timings is None else timings
    steps = np.array([5, 10, 20])
    errors = np.asarray(errors)
    return odeopt.WorkPrecision(
        "Flow", ("A", "diffrax.A"), (True, False), steps, 1 / steps, errors, gradients, timings, 0.0, 1.0, 0.0
    )


def test_the_cost_of_an_error_lies_on_a_line_in_logarithms():
    result = by_hand([[1e-2, 1e-4, 1e-6], [1e-1, 1e-2, 1e-3]])
    assert result.gradients_at("A", 1e-3) == pytest.approx(np.sqrt(10 * 20))
    assert result.seconds_at("A", 1e-5) == pytest.approx(1e-3 * np.sqrt(20 * 40))
    assert result.gradients_at("diffrax.A", 1e-3) == 40


def test_an_error_outside_of_the_ladder_costs_its_first_step_or_nothing_known():
    result = by_hand([[np.nan, 1e-4, 1e-6], [1e-1, 1e-2, 1e-3]])
    assert result.gradients_at("A", 1e-3) == 20
    assert result.gradients_at("diffrax.A", 0.5) == 10
    assert np.isnan(result.gradients_at("diffrax.A", 1e-9))


def test_a_slow_moment_of_the_machine_leaves_the_ratio_as_it_is():
    timings = np.ones((2, 3, 3)) * np.array([1.0, 50.0, 1.0])
    timings[1] *= 2
    result = by_hand([[1e-1, 1e-2, 1e-3]] * 2, timings)
    assert result.seconds_ratio("A", "diffrax.A", 3e-3) == pytest.approx(0.5)
    assert result.seconds_at("A", 3e-3) == pytest.approx(1.0)


def test_the_table_has_a_row_for_each_contestant_and_step_size(on_heavy_ball):
    lines = str(on_heavy_ball).splitlines()
    assert len(lines) == 3 + len(STEPS) * len(on_heavy_ball.names)
    assert lines[-2].split()[:2] == ["diffrax.Tsit5", "32"]


def test_the_picture_has_gradients_and_seconds_and_diffrax_dashed(on_heavy_ball):
    panels = on_heavy_ball.plot().axes
    assert [axes.get_xlabel() for axes in panels] == ["gradients", "seconds"]
    for axes, costs in zip(panels, (on_heavy_ball.gradients, on_heavy_ball.seconds), strict=True):
        assert [line.get_linestyle() for line in axes.lines] == ["-"] * 4 + ["--"] * 4
        assert [line.get_label() for line in axes.lines] == list(on_heavy_ball.names)
        np.testing.assert_array_equal([line.get_xdata() for line in axes.lines], costs)
    assert on_heavy_ball.plot(axes=panels) is panels[0].get_figure()
    with pytest.raises(ValueError, match="axes"):
        on_heavy_ball.plot(axes=panels[:1])


def test_errors_that_left_the_numbers_are_drawn_as_gaps():
    result = by_hand([[np.nan, np.inf, 1e-6], [1e-1, 0.0, 1e-3]])
    drawn = result.plot().axes[0].lines
    assert [np.isfinite(line.get_ydata()).tolist() for line in drawn] == [[False, False, True], [True, False, True]]


WRONG = {
    "steps fall": ({"steps": (4, 2)}, ValueError, "steps=(4, 2)"),
    "half a step": ({"steps": (0, 2)}, ValueError, "steps=(0, 2)"),
    "no repeat": ({"repeats": 0}, ValueError, "repeats=0"),
    "a class": ({"schemes": [odeopt.Heun]}, TypeError, "scheme must be a scheme"),
    "a scheme of diffrax": ({"schemes": [diffrax.Heun()]}, TypeError, "scheme must be a scheme"),
    "a solver of ours": ({"solvers": [odeopt.Heun()]}, TypeError, "explicit solvers"),
    "implicit": ({"solvers": [diffrax.Kvaerno5()]}, TypeError, "explicit solvers"),
    "a solver for other terms": ({"solvers": [diffrax.SemiImplicitEuler()]}, None, "diffrax.SemiImplicitEuler cannot"),
    "nobody": ({"schemes": (), "solvers": ()}, ValueError, "both empty"),
    "twice": ({"schemes": [odeopt.Heun(), odeopt.Heun()]}, ValueError, "Heun stands there more than once"),
    "no list": ({"schemes": odeopt.Heun()}, TypeError, "schemes must be a sequence"),
    "duration": ({"duration": 0.0}, ValueError, "duration=0.0"),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case):
    options, kind, words = WRONG[case]
    options = (
        {"schemes": (), "solvers": ()} | ({"solvers": [diffrax.Euler()]} if "duration" in options else {}) | options
    )
    with pytest.raises(kind or (TypeError, ValueError)) as caught:
        odeopt.work_precision(odeopt.GradientFlow(), UNIT_BOWL, **options)
    assert words in str(caught.value)


def test_a_name_that_did_not_take_part_is_refused_with_those_that_did():
    with pytest.raises(ValueError, match=r"'B': expected one of A, diffrax\.A"):
        replace(by_hand([[1.0, 0.1, 0.01]] * 2)).gradients_at("B", 0.1)
