"""The picture of a run: what it shows, and that it works for runs of any length."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
import odeopt.plot
from odeopt.plot._run import energy_balance

COLUMNS = ("t", "step_size", "loss", "energy", "dissipation", "gradient_norm", "rejections")
ROSENBROCK = lambda y, _: (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2  # noqa: E731


def history_of(trials, flow=None, **options):
    solver = odeopt.Solver(odeopt.HeavyBall() if flow is None else flow)
    start = jnp.array([-1.0, 1.0])
    return odeopt.minimise(ROSENBROCK, solver, start, max_steps=trials, throw=False, **options).history


def first_steps(history, steps):
    columns = {name: getattr(history, name)[:steps] for name in COLUMNS}
    return odeopt.History(**columns, start=history.start)


@pytest.mark.parametrize("steps", [0, 1, 2, 40, 350])
def test_run_of_any_length_is_drawn(tmp_path, steps):
    file = tmp_path / "run.png"
    history = first_steps(history_of(700).trimmed(), steps)
    assert len(history.t) == steps
    odeopt.plot.run(history, title="Rosenbrock").savefig(file)
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert file.stat().st_size > 10_000


def test_panels_show_the_accepted_steps_and_the_rejected_trials():
    history = history_of(50).trimmed()
    loss, energy, step_size = odeopt.plot.run(history).axes
    assert np.array_equal(loss.lines[0].get_ydata()[1:], history.loss)
    assert loss.get_yscale() == "log"
    assert np.array_equal(energy.lines[0].get_ydata()[1:], history.energy)
    assert len(energy.lines) == 2
    assert np.array_equal(step_size.lines[0].get_ydata(), history.step_size)
    assert step_size.get_yscale() == "log"
    marked = step_size.collections[0].get_offsets()[:, 0]
    assert marked.tolist() == (1 + np.flatnonzero(history.rejections)).tolist()
    assert all(axes.get_xlabel() and axes.get_title() for axes in (loss, energy, step_size))


def test_continuous_dissipation_is_the_trapezoidal_sum_from_the_start():
    history = history_of(50).trimmed()
    steps, energy, continuous = energy_balance(history)
    dissipation = np.concatenate([[history.start["dissipation"]], history.dissipation])
    t = np.concatenate([[0.0], history.t])
    assert steps.tolist() == list(range(len(t)))
    assert energy[0] == continuous[0] == history.start["energy"]
    assert continuous[-1] == pytest.approx(energy[0] + np.trapezoid(dissipation, t))


def test_short_steps_keep_nearly_all_of_the_dissipation():
    # The truth here: V' is the derivative of V along the flow, so V0 + its integral is V, up to the step size.
    solver = odeopt.Solver(odeopt.HeavyBall(friction=1.0), odeopt.RK4(), odeopt.ConstantStep(1e-2))
    quadratic = lambda y, _: 0.5 * jnp.sum(y**2)  # noqa: E731
    solution = odeopt.minimise(quadratic, solver, jnp.array([1.0, 2.0]), max_steps=300, throw=False)
    _, energy, continuous = energy_balance(solution.history.trimmed())
    assert np.max(np.abs(energy - continuous)) < 1e-4 * energy[0]


def test_history_with_states_and_one_without_a_start_are_drawn():
    odeopt.plot.run(history_of(10, history="states"))
    history = history_of(10).trimmed()
    bare = odeopt.History(**{name: getattr(history, name) for name in COLUMNS})
    figure = odeopt.plot.run(bare)
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), history.loss)


def test_something_else_than_a_history_is_refused():
    with pytest.raises(TypeError):
        odeopt.plot.run("run")


def test_the_library_imports_matplotlib_only_for_pictures_and_pyplot_never():
    code = (
        "import sys, odeopt; assert 'matplotlib' not in sys.modules;"
        "import odeopt.plot; assert 'matplotlib.figure' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
