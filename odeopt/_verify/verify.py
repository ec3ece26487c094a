"""Everything that is checked of a flow, in one call."""

import time
from collections.abc import Callable
from typing import Any

from .._controller.base import AbstractController
from .._flow.base import AbstractFlow
from .._scheme.base import AbstractScheme
from .case import system_of
from .check import Check
from .convergence import convergence_order
from .energy import audit_energy
from .equivalence import equivalence
from .report import Report, Section
from .steps import audit_steps
from .system import in_double_precision


def verify(
    flow: AbstractFlow,
    problem: tuple | None = None,
    *,
    scheme: AbstractScheme | None = None,
    controller: AbstractController | None = None,
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

    **Returns:** a `Report`: `report.passed`; it prints itself, `report.to_markdown()`,
    `report.save("report.md")`, `report.raise_on_failure()`. A wrong declaration is a failed report and never an
    exception.

    **Raises:** `TypeError` if `flow` is no flow, or `problem` no problem.

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
    sections = [_evaluation(flow, problem)]
    if sections[0].passed:
        recommended = flow.recommended()
        scheme, controller = scheme or recommended[0], controller or recommended[1]
        parts: list[tuple[str, Callable[[], Any]]] = [
            ("Energy in continuous time", lambda: audit_energy(flow, problem)),
            (f"Order of {type(scheme).__name__}", lambda: convergence_order(flow, scheme, problem)),
            (
                f"Energy in discrete time, {type(scheme).__name__} under {type(controller).__name__}",
                lambda: audit_steps(flow, scheme, controller, problem),
            ),
            ("Discrete equivalent", lambda: equivalence(flow, scheme)),
        ]
        sections += [_section(title, part) for title, part in parts]
    return Report(_name(flow), tuple(sections), time.monotonic() - began)


@in_double_precision
def _evaluation(flow: AbstractFlow, problem: tuple | None) -> Section:
    """Whether the declaration can be evaluated at all."""
    title, name = "Declaration", "can be evaluated"
    try:
        system_of(flow, problem)
    except Exception as error:  # the user's own code may raise anything
        return Section(title, (Check(name, False, f"{type(error).__name__}: {error}"),))
    return Section(title, (Check(name, True, "all methods return what they should"),))


def _section(title: str, part: Callable[[], Any]) -> Section:
    try:
        result = part()
    except Exception as error:  # the user's own code may raise anything
        return Section(title, (Check("carried out", False, f"{type(error).__name__}: {error}"),))
    return Section(title, tuple(result.checks), result)


def _name(flow: AbstractFlow) -> str:
    return type(flow).__name__
