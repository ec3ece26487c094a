"""Everything that is checked of a flow, in one call."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from .._controller.base import AbstractController
from .._flow.base import AbstractFlow
from .._named import text_of
from .._objective import LeastSquares
from .._scheme.base import AbstractScheme
from .._solver import Solver
from .case import as_case, system_of
from .check import Check, told
from .convergence import convergence_order
from .energy import audit_energy
from .equivalence import equivalence
from .report import Report, Section
from .steps import audit_steps
from .system import in_double_precision, system

DECLARATION = "Declaration"


def verify(
    flow: AbstractFlow,
    problem: tuple | None = None,
    *,
    scheme: AbstractScheme | None = None,
    controller: AbstractController | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    r"""Check a declared flow: its energy, its discretisation, and what it claims to equal.

    The sections: whether the declaration can be evaluated; whether \(dV/dt\) is what it should be
    (`audit_energy`); whether the scheme converges at its order to a reference solution of diffrax
    (`convergence_order`); whether the discrete energy falls as the controller demands (`audit_steps`); whether the
    flow equals the discrete optimizer that it names (`equivalence`). All in float64, in well under a minute for a
    usual flow.

    **Arguments:**

    - `flow`: an instance of the flow.
    - `problem`: `(fn, y0)` or `(fn, y0, args)`, as for `minimise`, where the flow needs parameters of a certain shape
        or is meant for a certain objective. `None`: built-in objectives of a small vector, convex and not convex.
    - `scheme`, `controller`: `None`: what the flow recommends.
    - `progress`: called with the title of every section before it is carried out.

    **Returns:** a `Report`: `report.passed`; it prints itself, `report.plot()`, `report.to_markdown()`,
    `report.save("report.md")`, `report.raise_on_failure()`. A wrong declaration is a failed report and never an
    exception.

    **Raises:** `TypeError` if `flow` is no flow, `problem` no problem, or `scheme` or `controller` none of those;
    `ValueError` if they do not fit together.

    !!! example

        ```python
        report = odeopt.verify(odeopt.HeavyBall(friction=0.5))
        print(report)
        assert report.passed
        ```
    """
    if not isinstance(flow, AbstractFlow):
        hint = f" Write {flow.__name__}()." if isinstance(flow, type) and issubclass(flow, AbstractFlow) else ""
        raise TypeError(f"flow must be an instance of odeopt.AbstractFlow; got {flow!r}.{hint}")
    began = time.monotonic()
    tell = progress or (lambda title: None)
    tell(DECLARATION)
    sections = [_evaluation(flow, problem)]
    if sections[0].passed:
        for part, title, carry_out in _parts(Solver(flow, scheme, controller), scheme, problem):
            tell(title)
            if part == "order" and not flow.continuous:
                sections.append(Section(title, (_no_order(flow),), part=part))
            else:
                sections.append(_section(part, title, carry_out))
    return Report(text_of(flow, {}), tuple(sections), time.monotonic() - began)


def _parts(
    solver: Solver, asked_for: AbstractScheme | None, problem: tuple | None
) -> list[tuple[str, str, Callable[[], Any]]]:
    """What is asked of a declaration that can be evaluated: name, title, and how it is carried out."""
    flow, scheme, controller = solver.flow, solver.scheme, solver.controller
    names = type(scheme).__name__, type(controller).__name__
    return [
        ("energy", "Energy in continuous time", lambda: audit_energy(flow, problem)),
        ("order", f"Order of {names[0]}", lambda: convergence_order(flow, scheme, problem)),
        (
            "steps",
            f"Energy in discrete time, {names[0]} under {names[1]}",
            lambda: audit_steps(flow, scheme, controller, problem),
        ),
        ("equivalence", "Discrete equivalent", lambda: equivalence(flow, asked_for, problem=problem)),
    ]


@in_double_precision
def _evaluation(flow: AbstractFlow, problem: tuple | None) -> Section:
    """Whether the declaration can be evaluated at all."""
    name = "can be evaluated"
    # A problem that is none is a wrong call, and no wrong declaration.
    as_case(problem)
    try:
        made = system_of(flow, problem)
        outside = bool(jnp.isinf(made.energy(jnp.zeros(()), made.start)))
    except Exception as error:  # the user's own code may raise anything
        checks = (Check(name, False, told(error)),)
    else:
        if outside:
            return Section(DECLARATION, (Check(name, False, _outside(flow, problem)),), part="declaration")
        checks = (Check(name, True, "all methods return what they should"),)
        # Where the user names no parameters, the declaration is for any; those of a problem are what they are.
        if problem is None:
            checks += _of_several_arrays(flow)
    return Section(DECLARATION, checks, part="declaration")


def _outside(flow: AbstractFlow, problem: tuple | None) -> str:
    start = "the built-in start" if problem is None else "the start of the problem"
    return (
        f"the energy is infinite at {start}, {as_case(problem).y0}: {type(flow).__name__} has a domain. Verify it on a "
        "problem that starts inside: odeopt.verify(flow, (fn, y0))"
    )


def _of_several_arrays(flow: AbstractFlow) -> tuple[Check, ...]:
    """Whether a flow that works on one array works on a model too."""
    parameters = {"weights": jnp.ones((2, 3)), "biases": jnp.ones(2)}
    try:
        system(flow, LeastSquares(lambda y, _: (y["weights"], jnp.cos(y["biases"]))), parameters)
    except Exception as error:  # the user's own code may raise anything
        advice = "A model has several: compute leaf by leaf, with jax.tree.map"
        return (Check("parameters of several arrays", None, f"the declaration fails on them: {told(error)}. {advice}"),)
    return ()


def _no_order(flow: AbstractFlow) -> Check:
    return Check(
        "order", None, f"the vector field of {type(flow).__name__} jumps: there is none. Verify a smooth form of it too"
    )


def _section(part: str, title: str, carry_out: Callable[[], Any]) -> Section:
    try:
        result = carry_out()
    except Exception as error:  # the user's own code may raise anything
        return Section(title, (Check("carried out", False, told(error)),), part=part)
    return Section(title, tuple(result.checks), result, part)
