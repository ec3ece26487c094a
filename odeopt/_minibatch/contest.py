"""The step size to begin with: a scan from below, and a contest of a few."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

# Batches of both: small ones see the same directions at a fraction of the cost, and the noise of larger ones follows
# from theirs.
BATCH = 32
# A scan goes up by this factor, from a step size at which nothing can go wrong: a descent from above can kill a network
# of ReLUs (a false minimum of the energy over the step size).
SCAN_STEPS, SCAN_FACTOR, SCAN_EXAMPLES = 16, 4.0, 640
# In units of the flow's time. Steps of 1e-4 of the parameters' size are short for any network that can be trained.
SCAN_BEGIN = 1e-4
# Factors of 4 from there; above, the parameters' size is nothing beside a step.
SCAN_LEVELS = 24
ARM_STEPS, ARM_FACTOR, ARM_EXAMPLES = 128, 3.0, 2560
# At most so many arms: the scan's best is rarely that far off.
ARMS = 6
# Arms are run for twice as long while the energy of the best is less than this part of what it was: where the first
# descent is not over, it is the longest steps that win, and they lose later ...
DESCENT = 0.75
# ... and at most so often, because every doubling costs as much as all before it.
DOUBLINGS = 1
# What is best over so few steps is 2 to 3 times too long for a run of epochs, whose last steps are limited by noise
# (measured: Fashion-MNIST, batches of 32, 128, 512 and 2048).
LONG_RUN = 0.375


@runtime_checkable
class Runner(Protocol):
    """A run from the start at one step size."""

    def advance(self, steps: int) -> None:
        """Make further steps; all runners see the same batches."""

    def energy(self, examples: int) -> float:
        """The energy on the first `examples` of the probe; infinite where it is not finite."""
        ...


@runtime_checkable
class Arena(Protocol):
    """Where runs from one start are compared."""

    def runner(self, step_size: float) -> Runner:
        """A new run at the start."""
        ...


@dataclass
class _Arm:
    """A contestant: its run, and its energies at half of its steps and at all of them."""

    runner: Runner
    half: float
    full: float

    def double(self, steps: int) -> None:
        """Make as many steps again, `steps`."""
        self.runner.advance(steps)
        self.half, self.full = self.full, self.runner.energy(ARM_EXAMPLES)


def contest(arena: Arena, unit: float, batch: int) -> float | None:
    """The step size for batches of `batch` examples, or `None` where no step size lowers the energy.

    **Arguments:** `unit`: the flow's unit of time.
    """
    first = _scanned(arena, SCAN_BEGIN * unit)
    if first is None:
        return None
    arms = _arms(arena, first)
    steps = ARM_STEPS
    while min(arm.full for arm in arms.values()) < DESCENT * min(arm.half for arm in arms.values()):
        if steps == ARM_STEPS * 2**DOUBLINGS:
            break
        arms = _around_best(arms)
        for arm in arms.values():
            arm.double(steps)
        steps *= 2
    best = lowest({size: arm.full for size, arm in arms.items()})
    # The noise of a gradient falls like the root of the batch, and the steps that it allows grow so.
    # (Malladi, Lyu, Panigrahi, Arora, 2022, On the SDEs and scaling rules for adaptive gradient algorithms.)
    return LONG_RUN * math.sqrt(batch / BATCH) * best


def _scanned(arena: Arena, begin: float) -> float | None:
    """The first step size from below behind which the energy is lower than behind the next one."""
    best, lowest_energy = None, arena.runner(begin).energy(SCAN_EXAMPLES)
    for size in (begin * SCAN_FACTOR**level for level in range(SCAN_LEVELS)):
        runner = arena.runner(size)
        runner.advance(SCAN_STEPS)
        energy = runner.energy(SCAN_EXAMPLES)
        if energy < lowest_energy:
            best, lowest_energy = size, energy
        elif best is not None:
            break
    return best


def _arms(arena: Arena, first: float) -> dict[float, _Arm]:
    """Arms by their step sizes: `first` and others around it until the best has a worse one on either side."""

    def begun(size: float) -> _Arm:
        runner = arena.runner(size)
        runner.advance(ARM_STEPS // 2)
        arm = _Arm(runner, math.inf, runner.energy(ARM_EXAMPLES))
        arm.double(ARM_STEPS // 2)
        return arm

    arms = {size: begun(size) for size in (first, first / ARM_FACTOR)}
    while len(arms) < ARMS:
        best = min(arms, key=lambda size: arms[size].full)
        if min(arms) < best < max(arms):
            break
        following = best * ARM_FACTOR if best == max(arms) else best / ARM_FACTOR
        arms[following] = begun(following)
    return arms


def _around_best(arms: dict[float, _Arm]) -> dict[float, _Arm]:
    """The best arm and its neighbours."""
    sizes = sorted(arms)
    best = min(range(len(sizes)), key=lambda index: arms[sizes[index]].full)
    return {size: arms[size] for size in sizes[max(best - 1, 0) : best + 2]}


def lowest(energies: dict[float, float]) -> float:
    """Where the parabola through the best point and its neighbours is lowest, in the logarithms of both."""
    sizes = sorted(energies)
    values = np.array([energies[size] for size in sizes])
    best = int(np.argmin(values))
    around = slice(best - 1, best + 2)
    if not (0 < best < len(sizes) - 1 and np.all(np.isfinite(values[around])) and np.all(values[around] > 0)):
        return sizes[best]
    curvature, slope, _ = np.polyfit(np.log(sizes[around]), np.log(values[around]), 2)
    return float(np.exp(-slope / (2 * curvature))) if curvature > 0 else sizes[best]
