r"""The edge of stability: how far the step sizes of a run are from those that its curvature allows.

(Cohen, Kaur, Li, Kolter and Talwalkar, 2021, Gradient descent on neural networks typically occurs at the edge of
stability; Cohen et al., 2022, Adaptive gradient methods at the edge of stability.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._minimise import minimise
from .._objective import Oracle, Tally
from .._results import RESULTS, code
from .._solution import Solution
from .._solver import Solver
from .._stop import Stop
from .curvature import top_eigenvalues
from .linearisation import Linearisation, hold, linearise
from .objectives import Linear
from .stability import stability_limits
from .system import System, in_double_precision, system

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EdgeOfStability:
    r"""Curvature, stability limit and step size along a run, in double precision.

    **Attributes:**

    - `flow`, `scheme`, `controller`: their names.
    - `steps`: the number of accepted steps before each point, shape `(n,)`; `t`: the flow time there.
    - `eigenvalues`: the largest of the Hessian, the largest first, shape `(n, k)`.
    - `curvature`: the largest of the Hessian seen through the preconditioner of the flow, relative to its mean; the
        same as `eigenvalues[:, 0]` for flows without one. Shape `(n,)`.
    - `limits`: the largest stable step size there, in the flow's unit of time; infinity where no curvature is
        positive.
    - `chosen`: the median step size of the run between this point and the one before.
    - `step_sizes`, `loss`: of every accepted step.
    - `ending`: why the run stopped, where it stopped by itself.
    """

    flow: str
    scheme: str
    controller: str
    steps: np.ndarray
    t: np.ndarray
    eigenvalues: np.ndarray
    curvature: np.ndarray
    limits: np.ndarray
    chosen: np.ndarray
    step_sizes: np.ndarray
    loss: np.ndarray
    ending: str

    def __str__(self) -> str:
        names = "".join(f"{f'lambda {i + 1}':>12}" for i in range(self.eigenvalues.shape[1]))
        head = f"{'steps':>8}{'t':>12}{names}{'seen':>12}{'limit of h':>12}{'h of run':>12}{'h/limit':>10}{'loss':>12}"
        lines = [f"Edge of stability: {self.scheme} on {self.flow} under {self.controller}", head]
        for row in range(len(self.steps)):
            values = "".join(f"{value:>12.5g}" for value in self.eigenvalues[row])
            lines.append(
                f"{self.steps[row]:>8d}{self.t[row]:>12.5g}{values}{self.curvature[row]:>12.5g}"
                f"{self.limits[row]:>12.5g}{self.chosen[row]:>12.5g}{self.chosen[row] / self.limits[row]:>10.3g}"
                f"{self.loss[self.steps[row] - 1]:>12.5g}"
            )
        return "\n".join([*lines, self.ending])

    def plot(self, axes: "Axes | None" = None) -> "Figure":
        """The step sizes of the run and the largest stable ones, over the accepted steps."""
        from ..plot import edge_of_stability as picture

        return picture(self, axes=axes)


@in_double_precision
def edge_of_stability(
    fn: Any,
    solver: Solver,
    y0: PyTree,
    args: PyTree = None,
    *,
    points: int = 10,
    steps_between: int = 20,
    eigenvalues: int = 3,
    frozen: Callable[[Any], Any] | None = None,
    stop: Stop | None = None,
) -> EdgeOfStability:
    r"""Run `minimise` in double precision, and see how its step sizes stand to the stability limit on the way.

    At each point the largest eigenvalues of the Hessian are found by Lanczos' method (ARPACK, from Hessian-vector
    products alone). The largest step size that is stable on a parabola of that curvature, for this flow and scheme
    (`odeopt.stability`), is the limit; a run at constant step size is said to be at the edge of stability where its
    step size exceeds it and the loss falls nevertheless.

    A flow whose memory scales the gradient, parameter by parameter, is linearised with that part of the memory held
    constant (`frozen`). The curvature that counts is then \(\lambda_{\max}(D^{-1/2} H D^{-1/2})\); \(D\) is read off
    from the response of the flow to a gradient.

    **Arguments:**

    - `fn`, `solver`, `y0`, `args`: as for `minimise`; a model of up to some 1e6 parameters.
    - `points`: how many points are looked at; `steps_between`: trial steps between two of them.
    - `eigenvalues`: how many of the Hessian are reported.
    - `frozen`: `frozen(memory)` returns the part of the memory that is held constant, for Adam
        `lambda memory: memory[1]`. It may be called on the memory of one scalar parameter too.
    - `stop`: as for `minimise`; the run then has fewer points.

    **Returns:** an `EdgeOfStability`; it prints a table and plots itself.

    **Raises:** what `minimise` raises before a run; `ValueError` if the flow is not linear in its memory beside what is
    frozen, or moves a parameter otherwise than against its gradient. Source: Cohen et al. (2021, 2022).

    !!! example

        ```python
        fn = lambda y, _: jnp.sum(jnp.arange(1.0, 4.0) * y**2)
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.1))
        print(odeopt.edge_of_stability(fn, solver, jnp.ones(3)))
        ```
    """
    for name, number in {"points": points, "steps_between": steps_between, "eigenvalues": eigenvalues}.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"edge_of_stability({name}={number!r}): expected a whole number >= 1.")
    problem = system(solver.flow, fn, y0, args)
    here = _linearised(problem.flow, solver, problem.start, jnp.zeros(()), frozen)
    _check_linear(type(solver.flow).__name__, here)
    rows, histories = [], []
    accepted, state, ending = 0, None, "The run was still on its way at the last point."
    for _ in range(points):
        solution = minimise(
            problem.objective,
            solver,
            problem.start.position,
            stop=stop,
            max_steps=steps_between,
            state=state,
            throw=False,
        )
        assert solution.history is not None
        histories.append(solution.history.trimmed())
        accepted, state = accepted + len(histories[-1].t), solution.state
        if len(histories[-1].t) > 0:
            rows.append((accepted, np.median(histories[-1].step_size), *_look(problem, solution, frozen, eigenvalues)))
        if solution.result._value != code(RESULTS.max_steps_reached):
            ending = solution.describe()
            break
    if not rows:
        raise ValueError(f"edge_of_stability: the run took no step. {ending}")
    steps, chosen, t, spectra, curvature, limits = (np.array(column) for column in zip(*rows, strict=True))
    return EdgeOfStability(
        flow=type(solver.flow).__name__,
        scheme=type(solver.scheme).__name__,
        controller=type(solver.controller).__name__,
        steps=steps,
        t=t,
        eigenvalues=spectra,
        curvature=curvature,
        limits=limits,
        chosen=chosen,
        step_sizes=np.concatenate([history.step_size for history in histories]),
        loss=np.concatenate([history.loss for history in histories]),
        ending=ending,
    )


def _look(problem: System, solution: Solution, frozen: Callable[[Any], Any] | None, count: int) -> tuple:
    """Time, largest eigenvalues, the curvature that counts and the limit where a run stands."""
    run, solver = solution.state.run, solution.state.solver
    state = run.snapshot.state
    spectrum = top_eigenvalues(problem.objective, state.position, count)
    here = _linearised(solver.flow, solver, state, run.t, frozen)
    curvature = spectrum[0]
    if frozen is not None:
        metric = _metric(solver.flow, state, run.t, frozen, here)
        curvature = top_eigenvalues(problem.objective, state.position, 1, metric)[0]
    limit = stability_limits(here, np.array([curvature]))[0] if curvature > 0 else np.inf
    return float(run.t), spectrum, curvature, limit


def _linearised(
    flow: AbstractFlow, solver: Solver, state: State, t: Array, frozen: Callable[[Any], Any] | None
) -> Linearisation:
    """The scalar problem: what is frozen has its mean over the parameters there."""
    if frozen is None:
        return linearise(flow, solver.scheme, time=float(t))
    memory = flow.init(jnp.zeros(())).memory
    slots = jax.tree.leaves(frozen(memory))
    parts = [frozen(state.memory)] if len(slots) == 1 else list(frozen(state.memory))
    means = {id(slot): _mean(part) for slot, part in zip(slots, parts, strict=True)}
    memory = jax.tree.map(lambda leaf: means.get(id(leaf), leaf), memory)
    return linearise(flow, solver.scheme, memory, frozen, float(t))


def _mean(tree: PyTree) -> Array:
    leaves = jax.tree.leaves(tree)
    return jnp.asarray(sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves))


def _metric(flow: AbstractFlow, state: State, t: Array, frozen: Callable[[Any], Any], here: Linearisation) -> PyTree:
    r"""The diagonal \(S = D / D_{\mathrm{ref}}\): how much less each parameter answers to a gradient than the scalar
    problem does."""
    held, memory = hold(flow, state.memory, frozen)
    answer = _response(held, t, State(state.position, memory))
    reference = _response(here.flow, t, State(here.origin, here.memory))
    metric = jax.tree.map(lambda leaf: reference / leaf, answer)
    if not all(bool(jnp.all((leaf > 0) & jnp.isfinite(leaf))) for leaf in jax.tree.leaves(metric)):
        raise ValueError(
            f"{type(flow).__name__}: with this part of its memory frozen the flow does not move every parameter "
            "against its gradient, so that its preconditioner is no positive diagonal."
        )
    return metric


@eqx.filter_jit
def _response(flow: AbstractFlow, t: Array, state: State) -> PyTree:
    """How the velocity of each parameter changes with its gradient, directly or by way of the memory."""
    rest = jax.tree.map(jnp.zeros_like, state.memory)

    def velocity(slope: float) -> PyTree:
        gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, slope), state.position)
        oracle = Oracle(Linear(gradient), state.position, Tally())
        rates = flow.vector_field(t, State(state.position, rest), oracle).memory
        memory = jax.tree.map(jnp.add, rest, rates)
        return flow.vector_field(t, State(state.position, memory), oracle).position

    return jax.tree.map(jnp.subtract, velocity(1.0), velocity(0.0))


def _check_linear(name: str, linearisation: Linearisation) -> None:
    if not bool(linearisation.exact(jnp.ones(()))):
        raise ValueError(
            f"{name} is not linear in its position and memory, so that one curvature does not tell how long its steps "
            "may be. Say which part of the memory is held constant: frozen=lambda memory: memory[1] for Adam, whose "
            "memory is (first moments, second moments)."
        )
