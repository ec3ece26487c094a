"""When a run is over."""

import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array

from ._hyperparameter import concrete, hyperparameter
from ._results import RESULTS, RUNNING, code

# The loss has stopped changing if it changed by less than the tolerance over so many accepted steps ...
CHANGE_WINDOW = 10
# ... unless the step size has grown so much over them that it was the step that was small, and not the slope.
CHANGE_GROWTH = 10.0
# A new low is one by this factor at least: less in a thousand trials would take two million
# for a digit of the gradient.
NEW_LOW = 0.999


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

    gradient_norm: Array | None = eqx.field(converter=hyperparameter, default=None)
    relative_gradient_norm: Array | None = eqx.field(converter=hyperparameter, default=None)
    target_loss: Array | None = eqx.field(converter=hyperparameter, default=None)
    loss_change: Array | None = eqx.field(converter=hyperparameter, default=None)
    max_evaluations: Array | None = eqx.field(converter=hyperparameter, default=None)
    kinetic: bool = eqx.field(static=True, default=True)
    norm: Callable = eqx.field(static=True, default=optx.two_norm)

    def __check_init__(self):
        for name in ("gradient_norm", "relative_gradient_norm", "loss_change", "max_evaluations"):
            value = getattr(self, name)
            if concrete(value) and not 0 <= float(value) < float("inf"):
                raise ValueError(
                    f"Stop({name}={float(value)}): expected a finite number >= 0, or None to switch it off."
                )
        if concrete(self.target_loss) and math.isnan(float(self.target_loss)):
            raise ValueError("Stop(target_loss=nan): expected a number, or None to switch it off.")


class Monitor(eqx.Module):
    """What the criteria remember of the run."""

    initial_stationarity: Array
    peaks: "Peaks | None"  # None where nothing waits for a kinetic energy
    floor: "Floor"
    window: "Window"


class Peaks(eqx.Module):
    """The largest values so far."""

    stationarity: Array
    kinetic: Array


class Floor(eqx.Module):
    """The smallest stationarity so far, and for how many trials in a row nothing told that the run gets anywhere."""

    lowest: Array
    fruitless: Array


class Window(eqx.Module):
    """The loss and the step size when the window was opened, the accepted steps left in it, and what the last said."""

    loss: Array
    step_size: Array
    left: Array
    settled: Array


def start_monitor(stop: Stop, loss: Array, stationarity: Array, kinetic: Array | None, step_size: Array) -> Monitor:
    """The monitor before the first trial; `kinetic` is `None` where the flow has no kinetic energy."""
    return Monitor(
        initial_stationarity=stationarity,
        peaks=Peaks(stationarity, kinetic) if stop.kinetic and kinetic is not None else None,
        floor=Floor(stationarity, jnp.asarray(0, jnp.int32)),
        window=Window(loss, step_size, jnp.asarray(CHANGE_WINDOW, jnp.int32), jnp.asarray(False)),
    )


def watch(
    stop: Stop,
    monitor: Monitor,
    accepted: Array,
    asked: Array,
    loss: Array,
    stationarity: Array,
    kinetic: Array | None,
    step_size: Array,
) -> Monitor:
    """The monitor after a trial: `kinetic` at the trial, loss and stationarity where the run now stands.

    `asked` is whether the decision was taken from gradients.
    """
    peaks, floor, window = monitor.peaks, monitor.floor, monitor.window
    is_low = stationarity < NEW_LOW * floor.lowest
    floor = Floor(
        lowest=jnp.where(is_low, stationarity, floor.lowest),
        # A step that the loss itself has judged lowers the energy visibly, which cannot go on for ever.
        fruitless=jnp.where(is_low | (accepted & ~asked), 0, floor.fruitless + asked).astype(jnp.int32),
    )
    if peaks is not None and kinetic is not None:
        peaks = Peaks(
            jnp.maximum(peaks.stationarity, stationarity),
            jnp.where(accepted, jnp.maximum(peaks.kinetic, kinetic), peaks.kinetic),
        )
    if stop.loss_change is not None:
        window = _slide(window, stop.loss_change, accepted, loss, step_size)
    return Monitor(monitor.initial_stationarity, peaks, floor, window)


def _slide(window: Window, tolerance: Array, accepted: Array, loss: Array, step_size: Array) -> Window:
    left = window.left - accepted.astype(jnp.int32)
    full = left <= 0
    grown = step_size > CHANGE_GROWTH * window.step_size
    return Window(
        loss=jnp.where(full, loss, window.loss),
        step_size=jnp.where(full, step_size, window.step_size),
        left=jnp.where(full, CHANGE_WINDOW, left).astype(jnp.int32),
        settled=full & ~grown & (jnp.abs(window.loss - loss) <= tolerance),
    )


def verdict(
    stop: Stop, monitor: Monitor, loss: Array, stationarity: Array, kinetic: Array | None, cost: Array | None
) -> Array:
    """The code of the result that the criteria give at a point, or `RUNNING`; `cost` is needed for its bound only."""
    result = jnp.asarray(RUNNING, jnp.int32)
    if stop.max_evaluations is not None and cost is not None:
        result = jnp.where(cost >= stop.max_evaluations, code(RESULTS.max_evaluations_reached), result)
    if stop.loss_change is not None:
        result = jnp.where(monitor.window.settled, code(RESULTS.converged), result)
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


def _stationary(stop: Stop, monitor: Monitor, stationarity: Array, kinetic: Array | None, tolerance: Array) -> Array:
    met = stationarity <= tolerance
    if monitor.peaks is None or kinetic is None:
        return met
    # Relative to the largest values of the run, because a kinetic energy has no absolute scale to compare with a
    # gradient; the first power and not the square, because the kinetic energy falls like the square of the
    # gradient and would otherwise delay the stop by the condition number.
    return met & (kinetic * monitor.peaks.stationarity <= tolerance * monitor.peaks.kinetic)
