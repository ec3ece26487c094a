"""What is said of declarations as people write them: of each wrong one why it is wrong, and nothing of a right one."""

import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import named
from declarations import Ball
from declarations_right import RIGHT
from declarations_wrong import WRONG, NoHalf, adam

import odeopt

# One of each kind that the audit has to tell from others stays; the rest differ from those in a detail, and each takes
# some seconds to compile.
WRONG_LATER = {
    "half missing in the kinetic energy",
    "sign of the gradient",
    "convex claim without saying so",
    "Adam with b = 4.4 a",
    "gradient forgotten",
    "sign of the force",
    "negative friction",
    "sign of the kinetic energy",
    "force counted twice",
    "wrong friction declared",
    "factor two missing in the dissipation",
    "sign of the dissipation",
    "energy weighted with t^2",
    "energy without the mass matrix",
    "energy without the preconditioner",
}
RIGHT_LATER = {
    "Adam with open constant",
    "friction r / (t + 1)",
    "strict energy",
    "pytree of parameters",
    "relativistic",
    "positive parameters",
    "soft sign",
    "another time",
    "balance law",
    "memory of two kinds",
}
# The awkward ones.
VERIFIED = (
    "Adam at b = 3.9 a",
    "friction r / max(t, t0)",
    "strict energy that reads the gradient",
    "mass matrix",
    "Equinox model",
)


def declared(case) -> tuple:
    """The flow of a case, and its problem where it needs one."""
    return case.make(), case.problem() if case.problem else None


@pytest.mark.parametrize("name", named(WRONG, WRONG_LATER))
def test_a_wrong_declaration_fails_for_the_right_reason(name):
    wrong = WRONG[name]
    audit = odeopt.audit_energy(*declared(wrong))
    assert not audit.passed
    reasons = [check.message for check in audit.checks if check.passed is False and check.name == wrong.check]
    assert any(wrong.says in reason for reason in reasons), str(audit)


@pytest.mark.parametrize(
    "name", ["half missing in the kinetic energy", "memory of the wrong shape", "not a number at rest"]
)
def test_the_whole_report_of_a_wrong_declaration_gives_the_reason(name):
    report = odeopt.verify(*declared(WRONG[name]))
    assert not report.passed
    assert any(WRONG[name].says in check.message for check in report.failures), str(report)


@pytest.mark.parametrize("name", named(RIGHT, {*RIGHT_LATER, *VERIFIED}))
def test_a_right_declaration_passes_the_audit_of_its_energy(name):
    audit = odeopt.audit_energy(*declared(RIGHT[name]))
    assert audit.passed, str(audit)


@pytest.mark.parametrize("name", named(RIGHT, set(RIGHT) - set(VERIFIED[:2])))
def test_a_right_declaration_is_verified(name):
    report = odeopt.verify(*declared(RIGHT[name]))
    assert report.passed, str(report)
    # The energy has been looked at, and not found uninteresting.
    assert report.section("energy").result.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_no_wrong_declaration_raises_an_error(name):
    report = odeopt.verify(*declared(WRONG[name]))
    assert not report.passed
    assert str(report)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adam_beyond_its_bound_is_found_where_the_gradient_is_small_beside_its_memory(seed):
    a, b, e = 1.0, 4.4, 1e-3
    audit = odeopt.audit_energy(adam(a, b, e), seed=seed)
    assert not audit.passed
    example = audit.counterexample
    (m, v), g = example.state.memory, example.gradient
    d2 = v + e**2
    # V' = -sum m^2 / D (1 + b (g^2 - v) / (4 a D^2)), which asks for g^2 < (1 - 4 a / b) v = 0.09 v to be positive.
    rate = -np.sum(m**2 / np.sqrt(d2) * (1 + b * (g**2 - v) / (4 * a * d2)))
    assert example.rate == pytest.approx(rate, rel=1e-9)
    assert rate > 0
    assert np.any(g**2 < (1 - 4 * a / b) * v)


SHAPE = np.array([1.0, -0.5, 2.0, 0.3])


def scaled(y, args):
    scale, offset = args
    return scale * (jnp.sum(jnp.cos(y)) + 0.1 * jnp.sum(y**2) + offset)


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        (1e-6, -50.0),
        (1e6, 50.0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1e-6, 50.0), (1e6, -50.0))),
    ],
)
def test_the_verdict_depends_neither_on_the_unit_nor_on_the_sign_of_the_objective(scale, offset):
    problem = (scaled, jnp.asarray(SHAPE), (jnp.asarray(scale), jnp.asarray(offset)))
    assert np.sign(float(scaled(*problem[1:]))) == np.sign(offset)
    right = odeopt.audit_energy(Ball(), problem)
    assert right.passed, str(right)
    wrong = odeopt.audit_energy(NoHalf(), problem)
    found = [check for check in wrong.checks if check.name == "sign of dV/dt, on given objective"]
    assert [check.passed for check in found] == [False], str(wrong)
    assert "multiplied by about 0.5" in found[0].message


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("make", [odeopt.HeavyBall, odeopt.Adam, odeopt.GradientFlow])
def test_a_flow_with_open_scales_is_verified_in_any_unit(make, scale):
    problem = (scaled, jnp.asarray(SHAPE), (jnp.asarray(scale), jnp.asarray(-50.0)))
    report = odeopt.verify(make(), problem)
    assert report.passed, str(report)
