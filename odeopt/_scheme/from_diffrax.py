"""Solvers of diffrax as schemes."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.gradient import GradientFlow
from .._objective import LeastSquares, Oracle, Tally
from .base import AbstractScheme, Trial
from .passes import check_countable, passes

# Asked for its order, a solver only looks at the kind of its term.
_TERM = diffrax.ODETerm(lambda t, y, args: y)


def from_diffrax(solver: diffrax.AbstractSolver) -> AbstractScheme:
    r"""A scheme that takes the steps of a solver of diffrax, explicit or implicit.

    The library's own schemes with the same tableau cost less memory and time: use this for methods that it does not
    have. A trial is one `solver.step` over a step of length \(h\). The state of the solver is made anew for every
    trial, so that a rejected one leaves nothing behind; a first-same-as-last solver gets its first slope from the
    gradient that is known where the step begins. The gradient at the end of a step is evaluated if it is accepted. The
    error estimate is the solver's own. Where the root finder of an implicit solver fails the trial is not finite, and
    controllers reject it.

    Gradients a step: one where the step begins, and one for each stage (but the first of a first-same-as-last solver).
    The iterations of an implicit solver cannot be seen from outside: its stages are counted as one evaluation each,
    which is a lower bound.

    **Arguments:** `solver`: for ordinary differential equations, of one term, and one-step. An implicit one needs
    the tolerances of its root finder, because there is no step size controller of diffrax to take them from.

    **Returns:** an `AbstractScheme` of the order of the solver.

    **Raises:** `TypeError` for what is no solver, `ValueError` for one that cannot step a flow. Source: Kidger (2021),
    On neural differential equations.

    !!! example

        ```python
        import optimistix

        root_finder = optimistix.Newton(rtol=1e-6, atol=1e-6)
        scheme = odeopt.from_diffrax(diffrax.Kvaerno3(root_finder=root_finder))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), odeopt.Solver(odeopt.HeavyBall(), scheme), jnp.ones(2))
        ```
    """
    _check_solver(solver)
    return DiffraxScheme(solver)


class DiffraxScheme(AbstractScheme):
    """What `from_diffrax` makes of a solver."""

    solver: diffrax.AbstractSolver

    def __init__(self, solver: diffrax.AbstractSolver):
        self.solver = solver

    @property
    def order(self) -> int:
        return int(self.solver.order(_TERM))  # pyright: ignore[reportArgumentType]

    @property
    def gradients_per_step(self) -> int:
        tally = Tally()

        def trace(position: Array) -> None:
            oracle = Oracle(LeastSquares(lambda y, _: y), position, tally)
            self.step(GradientFlow(), jnp.zeros_like(position), position, State(position), oracle)

        jax.eval_shape(trace, jnp.ones(()))
        return tally.gradients

    @property
    def has_error(self) -> bool:
        return isinstance(self.solver, diffrax.AbstractAdaptiveSolver)

    @property
    def error_order(self) -> int:
        return int(self.solver.error_order(_TERM))  # pyright: ignore[reportArgumentType]

    def check(self, flow: AbstractFlow) -> None:
        check_countable(self, flow)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        # Evaluated here, and not inside a loop of the solver, from which it could not be used again.
        _ = oracle.gradient
        stages = _stages(self.solver)
        # The solver loops over its stages, and a trace sees them once or more often: they are counted below.
        elsewhere = oracle if stages is None else oracle.fork(Tally())

        def field(elapsed: Any, y: State, args: None) -> State:
            return flow.vector_field(t + elapsed, y, oracle if _same(y, state) else elsewhere.at(y.position))

        # The solver's clock starts at zero: at a late time the difference of two times is no step size any more.
        term, start = diffrax.ODETerm(field), jnp.zeros_like(step_size)
        solver_state = self.solver.init(term, start, step_size, state, None)
        if _hands_on(self.solver):
            solver_state = jnp.asarray(False), self.solver.func(term, start, state, None)
        end, error, _, _, result = self.solver.step(term, start, step_size, state, None, solver_state, made_jump=False)
        end = jax.tree.map(lambda leaf: jnp.where(result == diffrax.RESULTS.successful, leaf, jnp.nan), end)
        if stages is not None:
            each = passes(flow.vector_field, t, state, oracle)
            oracle.count(stages * each.values, stages * each.gradients)
        return Trial(end, oracle.at(end.position), None if error is None else lambda: error)


def _same(a: State, b: State) -> bool:
    """Whether two states are the very same arrays of one trace."""
    return all(x is y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _stages(solver: diffrax.AbstractSolver) -> int | None:
    """How often a step evaluates the vector field at least; `None` for solvers that do not loop."""
    if isinstance(solver, diffrax.HalfSolver):
        stages = _stages(solver.solver)
        return None if stages is None else 3 * stages
    if isinstance(solver, diffrax.AbstractRungeKutta):
        return _tableau(solver).num_stages - int(_hands_on(solver))
    return 1 if isinstance(solver, diffrax.AbstractImplicitSolver) else None


def _hands_on(solver: diffrax.AbstractSolver) -> bool:
    """Whether the solver's own state is the slope where the step begins."""
    method = _method(solver)
    return isinstance(method, diffrax.AbstractRungeKutta) and _tableau(method).fsal


def _tableau(solver: diffrax.AbstractRungeKutta) -> diffrax.ButcherTableau:
    # Those of several terms, which have a tableau each, have been refused.
    assert isinstance(solver.tableau, diffrax.ButcherTableau)
    return solver.tableau


def _method(solver: diffrax.AbstractSolver) -> Any:
    return _method(solver.solver) if isinstance(solver, diffrax.HalfSolver) else solver


def _check_solver(solver: diffrax.AbstractSolver) -> None:
    if not isinstance(solver, diffrax.AbstractSolver):
        hint = f" Did you mean {solver.__name__}()?" if isinstance(solver, type) else ""
        raise TypeError(f"from_diffrax: expected a solver such as diffrax.Tsit5(), got {solver!r}.{hint}")
    method = _method(solver)
    name, terms = type(method).__name__, method.term_structure
    if not (isinstance(terms, type) and issubclass(terms, diffrax.AbstractTerm)) or method.order(_TERM) is None:
        raise ValueError(
            f"from_diffrax({name}()): the solver splits the equation into several terms or is for stochastic ones; a "
            "flow is one ordinary differential equation. Use a solver for a single ODETerm, such as Tsit5 or Kvaerno5."
        )
    if isinstance(method, diffrax.LeapfrogMidpoint):
        raise ValueError(
            "from_diffrax(LeapfrogMidpoint()): a two-step method, which needs steps of one length and none that is "
            "rejected. Use odeopt.Leapfrog, or a one-step method."
        )
    if isinstance(method, diffrax.AbstractImplicitSolver) and _is_open(method.root_finder):
        raise ValueError(
            f"from_diffrax({name}()): the root finder has no tolerances of its own. Give them, as in "
            f"diffrax.{name}(root_finder=optimistix.Newton(rtol=1e-6, atol=1e-6))."
        )


def _is_open(root_finder: Any) -> bool:
    """Whether the tolerances are still those placeholders that diffrax fills in from a step size controller."""
    tolerances = (getattr(root_finder, name, 0.0) for name in ("rtol", "atol"))
    return not all(isinstance(value, (int, float)) or hasattr(value, "dtype") for value in tolerances)
