"""What the user says about training on mini-batches."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import PyTree

from .._flow import AbstractFlow, ScheduleFreeAdam
from .._scheme import AbstractScheme, SemiImplicitEuler
from .._solver import Solver
from .examples import Examples

# Examples of the probe for each step of a window: the probe then costs a twentieth of the steps (20 forward passes
# beside three passes over 128 examples).
PROBE_PER_STEP = 20


class EnergyTournament(eqx.Module):
    r"""Training on mini-batches without a learning rate: steps of a flow, policed by an energy on fixed examples.

    The energy is the mean loss \(F_n\) over the first \(n\) examples of a random order that is drawn once: the same
    examples wherever energies are compared. A run has three parts.

    1. *Scan*: 16 steps from the start at step sizes that grow by factors of 4, while \(F\) falls further.
    2. *Arms*: 128 steps from the start, 256 where the first descent is not over, at step sizes a factor of 3 apart
        around the best of the scan, until one of them lies between two worse ones. A parabola in the logarithms gives
        the best \(h\) for so short a run; a long one takes 3/8 of it, times the root of `batch` / 32.
    3. *Loop*: windows of steps. A window is kept if \(F\) is finite behind it and not higher than before; otherwise
        the state is put back, its kinetic part is taken away (\(z := x\)) and \(h\) is halved.

    Scan and arms use batches of 32 and cost as much as 20 000 to 50 000 gradients of examples, once.

    What is guaranteed: along windows that are kept \(F\) never rises, and no point with a loss that is not finite is
    kept. \(F\) estimates the mean over all data; with `probe="all"` it is that mean. Not guaranteed: that the loss
    falls at every step, convergence, or that the step size of the arms is the best one late.

    **Arguments:**

    - `flow`: any `odeopt` flow; default `ScheduleFreeAdam()`.
    - `scheme`: how it is stepped; default what the flow recommends, or `SemiImplicitEuler()` where that learns from
        step to step.
    - `batch`: the number of examples of a step.
    - `window`: the number of steps between two looks at the energy.
    - `probe`: the number of examples that the energy is measured on, or `"all"`; default 20 for each step of a window.
    - `seed`: of the order of the examples. A step sees the same ones in every run with this seed.
    - `step_size`: \(h\) to begin with, in the flow's unit of time, in place of scan and arms.
    - `keyed`: whether the loss is `loss(model, batch, key)`, of a model with dropout, say. Every step has a key of its
        own; the energy is measured with one key for all, so that it compares models and not keys.

    **Raises:** `ValueError` or `TypeError` for what cannot work. Source: the flow of Defazio et al. (2024), The road
    less scheduled; the tournament is odeopt's own.

    !!! example

        ```python
        x = jax.random.normal(jax.random.key(0), (4000, 10))
        loss = lambda y, batch: jnp.mean(jnp.logaddexp(0, -batch @ y))
        y, solution = odeopt.train(jnp.zeros(10), loss, x, odeopt.EnergyTournament(batch=32), max_steps=1000)
        ```
    """

    flow: AbstractFlow
    scheme: AbstractScheme
    batch: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    probe: int | str = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    step_size: float | None = eqx.field(static=True)
    keyed: bool = eqx.field(static=True)

    def __init__(
        self,
        flow: AbstractFlow | None = None,
        scheme: AbstractScheme | None = None,
        *,
        batch: int = 128,
        window: int = 256,
        probe: int | str | None = None,
        seed: int = 0,
        step_size: float | None = None,
        keyed: bool = False,
    ):
        for name, value in (("batch", batch), ("window", window), ("probe", probe)):
            is_open = name == "probe" and value in (None, "all")
            if not is_open and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"EnergyTournament({name}={value!r}): expected a whole number >= 1.")
        if not (isinstance(seed, int) and seed >= 0):
            raise ValueError(f"EnergyTournament(seed={seed!r}): expected a whole number >= 0.")
        if step_size is not None and not 0 < step_size < float("inf"):
            raise ValueError(f"EnergyTournament(step_size={step_size!r}): expected a finite time > 0, or None.")
        solver = Solver(ScheduleFreeAdam() if flow is None else flow, scheme)
        if scheme is None and _learns(solver.scheme):
            solver = Solver(solver.flow, SemiImplicitEuler())
        if solver.flow.declares("jump") or solver.flow.needs_residuals or not solver.flow.countable:
            raise ValueError(
                f"EnergyTournament({type(solver.flow).__name__}()): it learns from differences of gradients, residuals "
                "or products of the whole data set, which mini-batches do not give. Use a flow of the Adam family, or "
                "all data at once: odeopt.FiniteSum."
            )
        if _learns(solver.scheme):
            raise ValueError(
                f"EnergyTournament(scheme={type(solver.scheme).__name__}()): it learns the curvature of one objective "
                "from step to step, and every batch is another one. Use SemiImplicitEuler()."
            )
        self.flow, self.scheme = solver.flow, solver.scheme
        self.batch, self.window, self.seed, self.keyed = batch, window, seed, keyed
        self.probe = PROBE_PER_STEP * window if probe is None else probe
        self.step_size = None if step_size is None else float(step_size)

    def batch_of(self, count: int) -> int:
        """How many examples a step sees."""
        return self.batch

    def method(self, loss: Callable, frozen: PyTree, examples: Examples, position: PyTree):
        """The run on these examples."""
        from .tournament import Tournament

        return Tournament(self, loss, frozen, examples, position)


def _learns(scheme: AbstractScheme) -> bool:
    """Whether a scheme keeps something from one step for the next."""
    return type(scheme).init is not AbstractScheme.init
