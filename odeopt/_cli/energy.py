"""What the energy did along a run, in words."""

import numpy as np

from .._minibatch import BatchHistory
from .._solution import History

# Two neighbouring energies are told apart down to so many units of their rounding, as in LyapunovControl.
ROUNDING_UNITS = 10


def energy_verdict(history: History | BatchHistory) -> str:
    """Whether the energy falls along the flow as declared, and whether it ever rose in the run, measured."""
    if isinstance(history, BatchHistory):
        kept = np.concatenate([[history.start], history.energy[history.kept]])
        return f"on the probe, behind windows that were kept: {_rise(kept)}"
    energy, dissipation, loss = (_with_start(history, name) for name in ("energy", "dissipation", "loss"))
    change = np.diff(loss)
    # A rate is computed from terms that may cancel, each about as large as the fastest change of the loss.
    fastest = np.max(np.abs(change / np.asarray(history.step_size)[-len(change) :]), initial=0.0)
    level = np.finfo(dissipation.dtype).eps ** 0.5 * fastest
    rising = int(np.sum(np.isfinite(dissipation) & (dissipation > level)))
    if rising:
        return (
            f"dV/dt > 0 at {rising} of {len(dissipation)} points: the declared energy is not one of this flow; check "
            "the signs in vector_field and energy"
        )
    return _rise(energy)


def _with_start(history: History, column: str) -> np.ndarray:
    rows = np.asarray(getattr(history, column))
    return rows if history.start is None else np.concatenate([[history.start[column]], rows])


def _rise(energy: np.ndarray) -> str:
    """Whether the energy ever rose from one accepted step to the next."""
    if len(energy) < 2:
        return "no accepted step to measure"
    unit = float(np.finfo(energy.dtype).eps)
    # The difference of two neighbours in float64, so that measuring adds no rounding of its own.
    energy = energy.astype(np.float64)
    rise = np.diff(energy)
    level = ROUNDING_UNITS * unit * (np.abs(energy[1:]) + np.abs(energy[:-1]))
    if np.all(rise <= 0):
        return f"never rose: the smallest fall between accepted steps is {np.min(np.abs(rise)):.2g}"
    if np.all(rise <= level):
        worst = int(np.argmax(rise))
        return f"never rose beyond rounding: the largest rise is {rise[worst]:.2g}, rounding there {level[worst]:.2g}"
    worst = int(np.argmax(rise - level))
    return (
        f"rose at {int(np.sum(rise > level))} of {len(rise)} steps, most by {rise[worst]:.2g} (rounding there is "
        f"{level[worst]:.2g})"
    )
