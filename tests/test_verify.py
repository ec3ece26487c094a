"""The whole verification in one call."""

import jax.numpy as jnp

import odeopt
from odeopt import State


def test_a_right_flow_passes_every_section():
    report = odeopt.verify(odeopt.HeavyBall(friction=0.5))
    assert report.passed, str(report)
    assert len(report.sections) == 5
    assert "FAIL" not in report.to_markdown()


class HalfMissing(odeopt.AbstractFlow):
    """The kinetic energy without its factor 1/2."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return State(state.memory, -state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + jnp.sum(state.memory**2)


def test_a_wrong_flow_fails_at_the_sign_of_its_rate():
    audit = odeopt.audit_energy(HalfMissing())
    assert not audit.passed
    assert "sign of dV/dt" in [check.name for check in audit.checks if check.passed is False], str(audit)


class Unusable(HalfMissing):
    def init(self, params):
        return State(params, None)


def test_a_flow_that_cannot_be_evaluated_is_a_failed_report():
    report = odeopt.verify(Unusable())
    assert not report.passed
    assert "Unusable.vector_field" in report.failures[0].message
