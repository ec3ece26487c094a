"""When a run is over."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array

from ._hyperparameter import concrete, hyperparameter_field
from ._results import RESULTS, RUNNING, code

# The loss has stopped changing if it changed by less than the tolerance over so many accepted steps ...
CHANGE_WINDOW = 10
# ... unless the step size has grown so much over them that it was the step that was small, and not the slope.
CHANGE_GROWTH = 10.0


class Stop(eqx.Module):
    r"""Stopping criteria; the first that is met ends the run. Each is off where it is `None`.

    **Arguments:**

    - `gradient_norm`: stop when the flow's `stationarity` (for most flows the norm of the gradient) is at most this,
        in the unit of the gradient.
    - `relative_gradient_norm`: the same relative to the start.
    - `target_loss`: stop when the loss is at most this.
    - `loss_change`: stop when the loss changed by at most this over the last 10 accepted steps.
    - `max_evaluations`: stop when the passes over the objective cost this much: forward 1, backward 2.
    - `kinetic`: whether a flow with a kinetic energy \(K\) must also have come to rest: the two gradient criteria
        then wait until \(K / \max K \le \varepsilon / \max |g|\), with \(\varepsilon\) the tolerance. A fast crossing
        of a saddle is no solution.
    - `norm`: of the gradient, `optimistix.two_norm`, `max_norm` or `rms_norm`.

    **Raises:** `ValueError` for a negative or non-finite tolerance.

    !!! example

        ```python
        odeopt.Stop(gradient_norm=1e-8, max_evaluations=10_000)
        ```
    """

    gradient_norm: Array | None = hyperparameter_field(default=None)
    relative_gradient_norm: Array | None = hyperparameter_field(default=None)
    target_loss: Array | None = hyperparameter_field(default=None)
    loss_change: Array | None = hyperparameter_field(default=None)
    max_evaluations: Array | None = hyperparameter_field(default=None)
    kinetic: bool = eqx.field(static=True, default=True)
    norm: Callable = eqx.field(static=True, default=optx.two_norm)

    def __check_init__(self):
        for name in ("gradient_norm", "relative_gradient_norm", "loss_change", "max_evaluations"):
            value = getattr(self, name)
            if concrete(value) and not 0 <= float(value) < float("inf"):
                raise ValueError(f"Stop({name}={float(value)}): expected a finite number >= 0, or None to switch it off.")
        if concrete(self.target_loss) and not float(self.target_loss) == float(self.target_loss):
            raise ValueError("Stop(target_loss=nan): expected a number, or None to switch it off.")


class Monitor(eqx.Module):
    """What the criteria remember of the run."""

    initial_stationarity: Array
    peak_stationarity: Array
    peak_kinetic: Array
    window_loss: Array
    window_step_size: Array
    window_left: Array
    loss_settled: Array


def start_monitor(loss: Array, stationarity: Array, kinetic: Array, step_size: Array) -> Monitor:
    """The monitor before the first trial."""
    return Monitor(
        initial_stationarity=stationarity,
        peak_stationarity=stationarity,
        peak_kinetic=kinetic,
        window_loss=loss,
        window_step_size=step_size,
        window_left=jnp.asarray(CHANGE_WINDOW, jnp.int32),
        loss_settled=jnp.asarray(False),
    )


def watch(
    stop: Stop, monitor: Monitor, accepted: Array, loss: Array, stationarity: Array, kinetic: Array, step_size: Array
) -> Monitor:
    """The monitor after a trial; the arguments are those of the point that the run now stands at."""
    peak_stationarity = jnp.maximum(monitor.peak_stationarity, stationarity)
    peak_kinetic = jnp.maximum(monitor.peak_kinetic, kinetic)
    monitor = eqx.tree_at(
        lambda m: (m.peak_stationarity, m.peak_kinetic), monitor, (peak_stationarity, peak_kinetic)
    )
    if stop.loss_change is None:
        return monitor
    left = monitor.window_left - accepted.astype(jnp.int32)
    full = left <= 0
    grown = step_size > CHANGE_GROWTH * monitor.window_step_size
    settled = full & ~grown & (jnp.abs(monitor.window_loss - loss) <= stop.loss_change)
    return eqx.tree_at(
        lambda m: (m.window_loss, m.window_step_size, m.window_left, m.loss_settled),
        monitor,
        (
            jnp.where(full, loss, monitor.window_loss),
            jnp.where(full, step_size, monitor.window_step_size),
            jnp.where(full, CHANGE_WINDOW, left).astype(jnp.int32),
            settled,
        ),
    )


def verdict(stop: Stop, monitor: Monitor, loss: Array, stationarity: Array, kinetic: Array, cost: Array) -> Array:
    """The code of the result that the criteria give at a point, or `RUNNING`."""
    result = jnp.asarray(RUNNING, jnp.int32)
    if stop.max_evaluations is not None:
        result = jnp.where(cost >= stop.max_evaluations, code(RESULTS.max_evaluations_reached), result)
    if stop.loss_change is not None:
        result = jnp.where(monitor.loss_settled, code(RESULTS.converged), result)
    if stop.gradient_norm is not None:
        met = _stationary(stop, monitor, stationarity, kinetic, stop.gradient_norm)
        result = jnp.where(met, code(RESULTS.converged), result)
    if stop.relative_gradient_norm is not None:
        tolerance = stop.relative_gradient_norm * monitor.initial_stationarity
        met = _stationary(stop, monitor, stationarity, kinetic, tolerance)
        result = jnp.where(met, code(RESULTS.converged), result)
    if stop.target_loss is not None:
        result = jnp.where(loss <= stop.target_loss, code(RESULTS.target_reached), result)
    return result.astype(jnp.int32)


def _stationary(stop: Stop, monitor: Monitor, stationarity: Array, kinetic: Array, tolerance: Array) -> Array:
    met = stationarity <= tolerance
    if not stop.kinetic:
        return met
    # Relative to the largest values of the run, because a kinetic energy has no absolute scale to compare with a
    # gradient; the first power and not the square, because the kinetic energy falls like the square of the
    # gradient and would otherwise delay the stop by the condition number.
    return met & (kinetic * monitor.peak_stationarity <= tolerance * monitor.peak_kinetic)
