r"""Which discrete optimizer a flow is: its scheme at a constant step beside an optimizer of optax, step by step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .._controller.constant import ConstantStep
from .._flow.base import AbstractFlow
from .._minimise import minimise
from .._objective import AbstractObjective
from .._scheme.base import AbstractScheme
from .._scheme.tableaus import Euler
from .._solution import Solution
from .._solver import Solver
from .._stop import Stop
from .._tree import add_scaled
from .case import system_of
from .check import Check, all_passed
from .system import System, in_double_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Two programs for one formula differ by some units of rounding (2e-16) a step; a few hundred steps of a run that
# neither contracts nor expands add up to some hundred units, and a wrong constant shows in the first digits.
AGREEMENT = 1e-12
# A run that amplifies rounding is followed as closely as its own reference can be known: ten times the distance that
# it moves from a start which is wrong in the last digits (5 units of rounding).
PERTURBATION, AMPLIFIED = 1e-15, 10.0
# Where rounding alone moves the reference by more than this, agreement says little about the constants.
UNSTABLE = 1e-6
# What constants that are rounded to single precision (6e-8) may lead to over a run of some hundred steps.
SINGLE = 1e-4
# In the flow's unit of time, where the user gives no step size: long enough for 200 steps to train the built-in
# network, short enough to be stable there.
OPEN_STEP_SIZE = 0.1


@dataclass(frozen=True)
class Equivalence:
    """A run of a flow beside a run of a discrete optimizer.

    **Attributes:** (arrays are empty where there was nothing to compare)

    - `flow`, `scheme`: names; `step_size`: in the flow's unit of time.
    - `difference`: shape `(steps,)`, the largest difference of any parameter after each step, in units of the largest
        parameter of the run; NaN where only one of the two runs got so far.
    - `tolerance`: shape `(steps,)`, the difference allowed: 1e-12, or ten times what a start perturbed by 1e-15 moves
        the reference up to that step.
    - `loss`: shape `(steps + 1,)`, along the reference, its start included.
    - `checks`: what was found.
    """

    flow: str
    scheme: str
    step_size: float
    difference: np.ndarray
    tolerance: np.ndarray
    loss: np.ndarray
    checks: tuple[Check, ...]

    @property
    def largest(self) -> float:
        """The largest difference along the run; NaN where nothing was compared."""
        return float(np.nanmax(self.difference)) if np.any(np.isfinite(self.difference)) else float("nan")

    @property
    def passed(self) -> bool:
        """Whether a comparison took place and the two runs agree."""
        return len(self.difference) > 0 and all_passed(self.checks)

    def __str__(self) -> str:
        title = f"{self.flow} under {self.scheme}"
        if len(self.difference) == 0:
            return "\n".join([title, *map(str, self.checks)])
        rows = [
            f"{step:6d}  {self.loss[step]:12.5g}  {self.difference[step - 1]:10.1e}  {self.tolerance[step - 1]:10.1e}"
            for step in _listed_steps(len(self.difference))
        ]
        head = f"{'step':>6s}  {'loss':>12s}  {'difference':>10s}  {'tolerance':>10s}"
        return "\n".join([f"{title} at h = {self.step_size:.4g}", head, *rows, *map(str, self.checks)])

    def plot(self, axes=None) -> "Figure":
        """Difference and tolerance over the steps; on `axes` if given. Needs matplotlib."""
        from ..plot import equivalence

        return equivalence(self, axes=axes)


@in_double_precision
def equivalence(
    flow: AbstractFlow,
    scheme: AbstractScheme | None = None,
    transformation: optax.GradientTransformation | None = None,
    problem: tuple | None = None,
    *,
    step_size: float | None = None,
    steps: int = 200,
) -> Equivalence:
    r"""Compare a flow at a constant step size with a discrete optimizer, step by step through a training run.

    Both start at the same parameters, and after every step \(n\) the parameters must agree,

    \[ |x_n - \tilde x_n|_\infty \le \max(10^{-12}, 10\,\delta_n)\, \max_k |\tilde x_k|_\infty, \]

    where \(\delta_n\) is how far the optimizer itself moves if its start is perturbed by \(10^{-15}\): a run that
    amplifies rounding cannot be told apart any better. Where two methods are alike but not the same, the result holds
    the measured difference.

    **Arguments:**

    - `flow`: scales that it leaves open are calibrated at the start of the problem.
    - `scheme`: `None`: what the flow recommends, or explicit Euler where it is that which makes a discrete optimizer of
        the flow, and not what it recommends.
    - `transformation`: from optax, built with the hyper-parameters that correspond to `flow` and `step_size`. `None`:
        what the flow states of itself in `discrete_equivalent(scheme, step_size)`. A flow that was made in single
        precision holds its constants rounded to that (0.1 as 0.100000001): start from `float(flow.friction)`.
    - `problem`: `(fn, y0)` or `(fn, y0, args)`, as for `minimise`; `None`: a tanh network of 97 parameters that is
        fitted to Runge's function, or a function of one array for a flow that does not work on several.
    - `step_size`: in the flow's unit of time; `None`: a tenth of the flow's `unit_of_time`.
    - `steps`: how many.

    **Returns:** an `Equivalence`: `passed`, `difference`, `tolerance`, `largest`; a table as its `str`, and `plot()`.
    Where there is no `transformation` and the flow states none, nothing is compared and `passed` is `False`.

    **Raises:** `TypeError` if `transformation` is none, `ValueError` for a step size or number of steps out of range.

    !!! example

        ```python
        import math

        beta = math.exp(-0.5 * 0.1)
        sgd = optax.sgd(0.1 * (1 - beta) / 0.5, momentum=beta)
        result = odeopt.equivalence(odeopt.HeavyBall(friction=0.5), odeopt.ExponentialEuler(), sgd, step_size=0.1)
        assert result.passed
        ```
    """
    _check_arguments(scheme, transformation, steps)
    # Asks for the kind of `flow` and `scheme` too.
    chosen = Solver(flow, scheme).scheme
    states = flow.declares("discrete_equivalent")
    if transformation is None and not states:
        return _nothing_stated(flow, chosen)
    system = _system(flow, problem)
    h = OPEN_STEP_SIZE * float(system.unit_of_time()) if step_size is None else float(step_size)
    stated = system.flow.discrete_equivalent(chosen, jnp.asarray(h, jnp.float64)) if states else None
    if states and stated is None and scheme is None:
        stated, chosen = system.flow.discrete_equivalent(Euler(), jnp.asarray(h, jnp.float64)), Euler()
    transformation = stated if transformation is None else transformation
    if transformation is None:
        return _nothing_stated(flow, chosen)
    solver = Solver(system.flow, chosen, ConstantStep(h))
    ours = minimise(
        system.objective,
        solver,
        system.start.position,
        stop=Stop(),
        max_steps=steps,
        history="states",
        throw=False,
    )
    return _compare(system, solver, ours, transformation, steps, _advice(flow))


def _system(flow: AbstractFlow, problem: tuple | None) -> System:
    if problem is not None:
        return system_of(flow, problem)
    try:
        return system_of(flow, _training_run())
    except Exception:  # the user's own code may raise anything; what is not the number of arrays is raised again
        return system_of(flow, None)


def _advice(flow: AbstractFlow) -> str:
    """What to do about constants that were rounded when the flow was made."""
    if not any(eqx.is_array(leaf) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(flow)):
        return ""
    return (
        " The constants of the flow are held in single precision: build the transformation from them, as in "
        "float(flow.friction), or the flow under jax.enable_x64(True)."
    )


def _compare(
    system: System,
    solver: Solver,
    ours: Solution,
    transformation: optax.GradientTransformation,
    steps: int,
    advice: str,
) -> Equivalence:
    start = system.start.position
    paths, losses = _reference_and_its_twin(system.objective, transformation, start, steps)
    losses = np.asarray(losses)
    reference, twin = (jax.tree.map(lambda leaf, index=index: leaf[index], paths) for index in (0, 1))
    known = np.isfinite(losses[0]) & np.isfinite(losses[1])
    size = max(_largest(start), _largest(jax.tree.map(lambda leaf: leaf[known[1:]], reference))) or 1.0
    apart = _distances(reference, twin) / size
    tolerance = np.maximum(AGREEMENT, AMPLIFIED * np.maximum.accumulate(apart))
    assert ours.history is not None
    by_parameter = _by_parameter(ours.history.position, reference, size)
    # Behind the last step that the reference can be known at, there is nothing to compare with.
    length = int(np.argmin(np.append(known[1:], False)))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(start)]
    parts = {name: distance[:length] for name, distance in zip(names, by_parameter, strict=True)}
    travelled = _travelled(start, reference, length, size)
    return Equivalence(
        flow=type(system.flow).__name__,
        scheme=type(solver.scheme).__name__,
        step_size=float(solver.controller.initial_step_size),  # pyright: ignore[reportArgumentType]
        difference=np.max(list(parts.values()), axis=0),
        tolerance=tolerance[:length],
        loss=losses[0][: length + 1],
        checks=(
            _same_iterates(type(solver.scheme).__name__, parts, tolerance[:length], str(ours.result), advice),
            _real_run(losses[0][: length + 1], travelled, tolerance[:length], steps),
        ),
    )


@eqx.filter_jit
def _reference_and_its_twin(
    objective: AbstractObjective, transformation: optax.GradientTransformation, start: PyTree, steps: int
) -> tuple[PyTree, Array]:
    """The optimizer's parameters after each step, and its losses, from the start and from a perturbed one."""
    optimizer = optax.with_extra_args_support(transformation)

    def run(start):
        def step(carry, _):
            parameters, state, value, gradient = carry
            updates, state = optimizer.update(gradient, state, parameters, value=value)
            parameters = optax.apply_updates(parameters, updates)
            value, gradient = jax.value_and_grad(objective.value)(parameters)
            return (parameters, state, value, gradient), (parameters, value)

        value, gradient = jax.value_and_grad(objective.value)(start)
        first = (start, optimizer.init(start), value, gradient)
        _, (path, values) = jax.lax.scan(step, first, length=steps)
        return path, jnp.concatenate([value[None], values])

    twin = add_scaled(start, jnp.asarray(PERTURBATION * _size_of(start)), jax.tree.map(_alternating, start))
    # One after the other and not side by side: a batched matrix product rounds differently.
    return jax.lax.map(run, jax.tree.map(lambda *leaves: jnp.stack(leaves), start, twin))


def _alternating(leaf: Array) -> Array:
    return (1.0 - 2.0 * (jnp.arange(leaf.size) % 2)).reshape(leaf.shape)


def _size_of(tree: PyTree) -> Array:
    size = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)]))
    return jnp.where(size > 0, size, 1.0)


def _distances(a: PyTree, b: PyTree) -> np.ndarray:
    """The largest difference of any entry, for each step; leaves have the steps as their leading axis."""
    return np.max(_by_parameter(a, b, 1.0), axis=0)


def _by_parameter(a: PyTree, b: PyTree, size: float) -> list[np.ndarray]:
    """For each array of parameters, the largest difference after each step in units of `size`."""

    def distance(a, b):
        a, b = np.asarray(a), np.asarray(b)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.max(np.abs(a - b).reshape(len(b), -1), axis=1, initial=0.0) / size

    return [distance(*leaves) for leaves in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


def _same_iterates(scheme: str, parts: dict[str, np.ndarray], tolerance: np.ndarray, result: str, advice: str) -> Check:
    """Whether the two runs agree at every step; where they do not, since when, where, and what that points to."""
    name = "same iterates"
    if len(tolerance) == 0:
        return Check(name, False, "the optimizer is not finite after its first step: give a shorter step_size")
    difference = np.max(list(parts.values()), axis=0)
    apart = ~(difference <= tolerance)
    if not np.any(apart):
        # What is not known of the reference itself tells nothing, however well it agrees.
        known = tolerance <= UNSTABLE
        length = int(np.argmin(known)) if not np.all(known) else len(known)
        step = int(np.argmax(difference[:length])) if length else 0
        found = f"{scheme}: largest difference {difference[step]:.1e} of the parameters, allowed {tolerance[step]:.1e}"
        return Check(name, True, found + (f", in the first {length} steps" if length < len(known) else ""))
    first = int(np.argmax(apart))
    if not np.any(np.isfinite(difference[first:])):
        return Check(
            name, False, f"the run of the flow ended after step {first}, where the optimizer goes on: {result}"
        )
    worst = int(np.nanargmax(difference))
    where = max(parts, key=lambda part: np.nan_to_num(parts[part][worst]))
    if first == 0:
        hint = "The first step differs already: a factor of the whole update (learning rate, epsilon, bias correction)."
    else:
        agrees = "The first step agrees" if first == 1 else f"The first {first} steps agree"
        hint = f"{agrees}: what differs comes in with the memory (momentum, decay rates) or with time."
    if difference[worst] < SINGLE:
        hint += advice
    return Check(
        name,
        False,
        f"differ from step {first + 1} on ({difference[first]:.1e} of the parameters, allowed {tolerance[first]:.1e}), "
        f"by {difference[worst]:.1e} at step {worst + 1}, most in {where or 'the parameters'}. {hint}",
    )


def _real_run(loss: np.ndarray, travelled: float, tolerance: np.ndarray, steps: int) -> Check:
    """Whether the run that was compared could have shown a difference."""
    name = "training run"
    if not travelled > AGREEMENT:
        return Check(name, False, "the optimizer does not move from its start, where nothing can be compared")
    found = (
        f"{len(loss) - 1} of {steps} steps; the loss goes from {loss[0]:.4g} to {loss[-1]:.4g}, the parameters move by "
        f"{travelled:.1e} of their size"
    )
    vague = tolerance > UNSTABLE
    if np.any(vague):
        found += (
            f"; from step {int(np.argmax(vague)) + 1} on rounding alone moves the run by more than "
            f"{UNSTABLE / AMPLIFIED:.0e}, and a shorter step_size tells more"
        )
    return Check(name, None, found)


def _travelled(start: PyTree, path: PyTree, length: int, size: float) -> float:
    """How far the parameters have gone at most, in units of `size`."""
    still = jax.tree.map(lambda leaf, first: np.broadcast_to(np.asarray(first), leaf.shape), path, start)
    return float(np.max(_distances(still, path)[:length], initial=0.0)) / size


def _largest(tree: PyTree) -> float:
    return max(float(np.max(np.abs(np.asarray(leaf)), initial=0.0)) for leaf in jax.tree.leaves(tree))


def _listed_steps(steps: int) -> list[int]:
    """The steps 1, 2, 5, 10, 20, ... and the last."""
    ladder = [digit * 10**power for power in range(len(str(steps))) for digit in (1, 2, 5)]
    return [step for step in ladder if step < steps] + [steps]


def _nothing_stated(flow: AbstractFlow, scheme: AbstractScheme) -> Equivalence:
    name, scheme_name = type(flow).__name__, type(scheme).__name__
    message = (
        f"{name} states no discrete optimizer under {scheme_name}. Pass a transformation of optax, or define "
        f"{name}.discrete_equivalent(scheme, step_size)."
    )
    nothing = np.zeros(0)
    check = Check("same iterates", None, message)
    return Equivalence(name, scheme_name, float("nan"), nothing, nothing, nothing, (check,))


def _check_arguments(scheme, transformation, steps) -> None:
    if isinstance(scheme, optax.GradientTransformation):
        raise TypeError("an optimizer of optax is given by name: equivalence(flow, transformation=...).")
    if transformation is not None and not isinstance(transformation, optax.GradientTransformation):
        raise TypeError(
            f"transformation must be an optimizer of optax such as optax.sgd(0.1); got {type(transformation).__name__}."
        )
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: expected a whole number >= 1.")


def _training_run() -> tuple:
    """A small network that learns Runge's function: smooth, not convex, with parameters of several shapes."""
    model = eqx.nn.MLP("scalar", "scalar", 8, 2, activation=jnp.tanh, key=jax.random.key(0))
    inputs = jnp.linspace(-1.0, 1.0, 33)

    def loss(model, data):
        inputs, targets = data
        return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)

    return loss, model, (inputs, 1 / (1 + 25 * inputs**2))
