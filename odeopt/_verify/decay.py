# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false
# The stubs of SciPy and matplotlib are narrower than what these functions take and return.
r"""How fast an energy decays in flow time, and what that says of the objective.

\[ V - V_\infty \sim c\,e^{-r t}, \quad c\,(t + t_0)^{-p} \quad\text{or}\quad c\,(t_1 - t)^q. \]

(Łojasiewicz, 1963; Attouch and Bolte, 2009, On the convergence of the proximal algorithm for nonsmooth functions
involving analytic features; Karimi, Nutini and Schmidt, 2016, Linear convergence of gradient and proximal-gradient
methods under the Polyak-Łojasiewicz condition.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

from .._flow.base import AbstractFlow, DecayBound
from .._flow.gradient import GradientFlow
from .._solution import History
from .check import Check, all_passed
from .decay_fit import EXPONENTIAL, FINITE_TIME, LAWS, POLYNOMIAL, LawFit, fit_law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The first third of the decades that the energy falls through is the transient.
TRANSIENT = 1 / 3
# At most so many samples are fitted, evenly over the decades: a run at constant step would else be judged by its end.
LEVELS = 200
# A fit of three numbers to fewer samples says nothing.
FEWEST = 8
# Rounding of V, in units of the last place, above which a difference V - V_inf has three digits.
ROUNDING = 1e3
# A law with one parameter more than the exponential one must halve its residual ...
PARSIMONY = 0.5
# ... where that is larger than this: ln V is not known better along any run of a scheme.
RESOLVED = 1e-6
# ... and its order must differ from 1 by more than this: p or q beyond 20 cannot be told from exponential decay.
DISTINCT = 0.05
# Parts of the tail that are left out in turn: deviations from a law are correlated over whole parts of it.
BLOCKS = 5
# Where no minimum is given, the limit is sought below the last value by at most so much of the fall of V, and by at
# least the rounding of V or the second number; three trials a decade.
DEEPEST, NEAREST, TRIALS_PER_DECADE = 0.3, 1e-30, 3
# A law that leaves a factor of e**0.5 = 1.6 unexplained is not the law of this decay.
POOR = 0.5
# Orders agree with theory if they differ by at most this; a rate may fall short by the second number.
ORDER_AGREES, RATE_AGREES = 0.05, 0.01


@dataclass(frozen=True)
class DecayRate:
    r"""The law by which an energy decays.

    **Attributes:**

    - `law`: `"exponential"`, `"polynomial"` or `"finite time"`.
    - `value`: the fitted rate \(r\), or the exponent \(p\) or \(q\); `uncertainty`: one standard deviation of it, by
      leaving out a fifth of the tail at a time.
    - `order`: \(s\) of \(V' = -k (V - V_\infty)^s\).
    - `limit`: \(V_\infty\); `limit_given`: whether the caller gave it.
    - `lojasiewicz_exponent`: \(\theta\) of \(|\nabla f| \ge c (f - f^*)^\theta\) that the order implies, `None` where
      theory of the flow does not connect the two.
    - `predicted`: what theory says, or `None`.
    - `fits`: all three laws, in the order `"exponential"`, `"polynomial"`, `"finite time"`.
    - `t`, `excess`: \(V - V_\infty\) at all samples; `used`: the indices of those that were fitted.
    - `checks`: agreement with theory, and a note where none of the laws fits.
    """

    law: str
    value: float
    uncertainty: float
    order: float
    limit: float
    limit_given: bool
    lojasiewicz_exponent: float | None
    predicted: DecayBound | None
    fits: tuple[LawFit, ...]
    t: np.ndarray
    excess: np.ndarray
    used: np.ndarray
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the decay is at least as fast as theory says, where it says anything."""
        return all_passed(self.checks)

    @property
    def fit(self) -> LawFit:
        """The fit of the law that was chosen."""
        return self.fits[LAWS.index(self.law)]

    def __str__(self) -> str:
        symbol, formula = _FORMULAS[self.law]
        given = "given" if self.limit_given else "estimated"
        lines = [
            f"Decay: {self.law}, V - V_inf ~ {formula} with {symbol} = {self.value:.5g} +- {self.uncertainty:.2g} "
            f"(V_inf = {self.limit:.6g}, {given}; {len(self.used)} samples)",
            f"{'law':<14}{'formula':<20}{'value':>12}{'shift':>12}{'residual in ln V':>18}",
        ]
        for fit in self.fits:
            shift = "" if fit.shift is None else f"{fit.shift:.5g}"
            formula = _FORMULAS[fit.law][1]
            lines.append(f"{fit.law:<14}{formula:<20}{fit.value:>12.5g}{shift:>12}{fit.residual:>18.3g}")
        if self.lojasiewicz_exponent is not None:
            lines.append(f"Lojasiewicz exponent that this implies: {self.lojasiewicz_exponent:.3f}")
        return "\n".join([*lines, *map(str, self.checks)])

    def plot(self, axes: "Axes | None" = None) -> "Figure":
        """The decay and its fits, semilogarithmic and doubly logarithmic."""
        from ..plot import decay as picture

        return picture(self, axes=axes)


_TOO_FEW = f"decay_rate: {{}} samples in the tail of the decay; {FEWEST} are needed. Run longer, or with shorter steps."

_FORMULAS = {
    EXPONENTIAL: ("r", "c exp(-r t)"),
    POLYNOMIAL: ("p", "c (t + t0)^-p"),
    FINITE_TIME: ("q", "c (t1 - t)^q"),
}


def decay_rate(
    history: History | tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray],
    *,
    minimum: float | None = None,
    flow: AbstractFlow | None = None,
    lojasiewicz_exponent: float | None = None,
    lojasiewicz_constant: float = 1.0,
) -> DecayRate:
    r"""Whether an energy decays exponentially, polynomially or in finite time, and how fast, in flow time.

    The three laws are fitted by least squares to \(\ln (V - V_\infty)\) on the **tail**: from where the first third of
    the decades that \(V - V_\infty\) falls through is passed, to where rounding begins (a thousand units in the last
    place of \(V\)), at up to 200 samples that are spread evenly over the decades.

    The **exponential law is chosen unless** another one at least halves its residual and its order \(s\)
    (\(1 + 1/p\) or \(1 - 1/q\)) is more than 0.05 away from 1; of two such the one with the smaller residual.

    **Arguments:**

    - `history`: of a solution of `minimise` or `train` (of a single run), or arrays `(t, V)`, times increasing.
    - `minimum`: \(V_\infty\). `None`: estimated for each law, below the last value by at most 0.3 of the fall of
        \(V\); give it if it is known, because a law is hard to tell from an unknown limit.
    - `flow`: whose theory (`AbstractFlow.predicted_decay`) the decay is compared with; `None`: gradient flow, for the
        exponent alone.
    - `lojasiewicz_exponent`, `lojasiewicz_constant`: \(\theta\) and \(c\) of the objective,
        \(|\nabla f| \ge c (f - f^*)^\theta\) (1/2 and \(\sqrt{2 \mu}\) for a strongly convex function), if known:
        theory's prediction is then part of the result and is checked.

    **Returns:** a `DecayRate`; it prints a table and plots itself.

    **Raises:** `TypeError` or `ValueError` if there are no 8 samples in the tail, times do not increase, or values
    lie below `minimum`. Source: Attouch and Bolte (2009); Karimi, Nutini and Schmidt (2016).

    !!! example

        ```python
        fn = lambda y, _: jnp.sum(y**4)
        # Short steps, so that they follow the flow.
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.05))
        solution = odeopt.minimise(fn, solver, jnp.ones(1), max_steps=2000, throw=False)
        print(odeopt.decay_rate(solution.history, minimum=0.0))
        ```
    """
    t, energy, rounding = _series(history)
    if minimum is not None and not np.all(energy >= minimum):
        raise ValueError(f"decay_rate(minimum={minimum}): V falls to {np.min(energy):.6g}, below its own infimum.")
    fits = tuple(_fit(law, t, energy, rounding, minimum) for law in LAWS)
    fit = _choose(fits)
    excess = energy - fit.limit
    used = tail(excess, _floor(energy, fit.limit, rounding))
    uncertainty = _uncertainty(fit, t, energy, used)
    predicted = None
    if lojasiewicz_exponent is not None:
        theory = GradientFlow() if flow is None else flow
        predicted = theory.predicted_decay(float(lojasiewicz_exponent), float(lojasiewicz_constant))
    return DecayRate(
        law=fit.law,
        value=fit.value,
        uncertainty=uncertainty,
        order=fit.order,
        limit=fit.limit,
        limit_given=minimum is not None,
        lojasiewicz_exponent=_implied_exponent(GradientFlow() if flow is None else flow, fit.order),
        predicted=predicted,
        fits=fits,
        t=t,
        excess=excess,
        used=used,
        checks=(*_doubts(fit), *(() if predicted is None else (_compare(fit, uncertainty, predicted),))),
    )


def samples(excess: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The indices of the tail: where the energy first reaches levels that are spread evenly over its decades.

    **Arguments:** `excess`: of the energy over its limit; `floor`: its rounding.
    """
    fallen = np.minimum.accumulate(excess)
    clear = (fallen > ROUNDING * floor) & (fallen > 0)
    # What follows the first sample in the rounding is rounding too.
    end = len(excess) if clear.all() else int(np.argmin(clear))
    if end == 0:
        return np.zeros(0, int)
    log = np.log(fallen[:end])
    levels = np.linspace(log[0] + TRANSIENT * (log[-1] - log[0]), log[-1], LEVELS)
    used = np.unique(np.searchsorted(-log, -levels))
    return used[used < end]


def tail(excess: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The same, where there is enough of it to fit a law to."""
    used = samples(excess, floor)
    if len(used) < FEWEST:
        raise ValueError(_TOO_FEW.format(len(used)))
    return used


def _floor(energy: np.ndarray, limit: float, rounding: float) -> np.ndarray:
    return rounding * np.maximum(np.abs(energy), abs(limit))


def _series(history: History | tuple) -> tuple[np.ndarray, np.ndarray, float]:
    """Times, energies and the rounding unit of the energies."""
    if isinstance(history, History):
        rows = history.trimmed()
        t, energy = rows.t, rows.energy
        if rows.start is not None:
            t, energy = np.append(rows.start["t"], t), np.append(rows.start["energy"], energy)
    elif isinstance(history, tuple) and len(history) == 2:
        t, energy = map(np.asarray, history)
    else:
        raise TypeError(f"history must be a History or arrays (t, V); got {type(history).__name__}.")
    if t.ndim != 1 or t.shape != energy.shape:
        raise ValueError(f"t and V must be vectors of one length; got shapes {t.shape} and {energy.shape}.")
    rounding = float(np.finfo(energy.dtype).eps) if np.issubdtype(energy.dtype, np.floating) else 0.0
    t, energy = t.astype(np.float64), energy.astype(np.float64)
    written = ~np.isnan(t)
    t, energy = t[written], energy[written]
    if not (np.all(np.diff(t) > 0) and np.all(np.isfinite(energy))):
        # A step that is too short for the clock to move leaves two samples at one time.
        keep = np.append(True, np.diff(t) > 0)
        if np.any(np.diff(t) < 0) or not np.all(np.isfinite(energy)):
            raise ValueError("decay_rate: times must increase and energies be finite.")
        t, energy = t[keep], energy[keep]
    return t, energy, rounding


def _fit(law: str, t: np.ndarray, energy: np.ndarray, rounding: float, minimum: float | None) -> LawFit:
    """The fit of a law, with the limit that suits it best where none is given."""
    if minimum is not None:
        used = tail(energy - minimum, _floor(energy, minimum, rounding))
        return fit_law(law, t[used], np.log(energy[used] - minimum), minimum)
    lowest, fall = float(np.min(energy)), float(energy[0] - np.min(energy))
    if fall <= 0:
        raise ValueError("decay_rate: V does not fall.")

    def at(gap: float) -> LawFit | None:
        limit = lowest - fall * gap
        used = samples(energy - limit, _floor(energy, limit, rounding))
        return None if len(used) < FEWEST else fit_law(law, t[used], np.log(energy[used] - limit), limit)

    def misfit(gap: float) -> float:
        # Relative residuals, because a limit that lies far below makes every logarithm nearly constant.
        fit = at(gap)
        return np.inf if fit is None else fit.relative

    nearest = max(NEAREST, rounding * abs(lowest) / fall)
    trials = np.geomspace(nearest, DEEPEST, 2 + int(TRIALS_PER_DECADE * np.log10(DEEPEST / nearest)))
    best = int(np.argmin([misfit(gap) for gap in trials]))
    between = np.log(trials[max(best - 1, 0)]), np.log(trials[min(best + 1, len(trials) - 1)])
    refined = scipy.optimize.minimize_scalar(lambda log: misfit(np.exp(log)), bounds=between, options={"xatol": 1e-4})
    # A run that has come to its end in rounding has no gap at all.
    fit = at(min(0.0, trials[best], float(np.exp(refined.x)), key=misfit))
    if fit is None:
        raise ValueError(_TOO_FEW.format(0))
    return fit


def _choose(fits: tuple[LawFit, ...]) -> LawFit:
    exponential, *powers = fits
    bound = PARSIMONY * max(exponential.relative, RESOLVED)
    better = [fit for fit in powers if fit.relative < bound and abs(fit.order - 1) > DISTINCT]
    return min(better, key=lambda fit: fit.relative) if better else exponential


def _uncertainty(fit: LawFit, t: np.ndarray, energy: np.ndarray, used: np.ndarray) -> float:
    """The jackknife over blocks of the tail (Künsch, 1989, The jackknife and the bootstrap for general stationary
    observations)."""
    values = []
    for block in np.array_split(used, BLOCKS):
        kept = np.setdiff1d(used, block)
        # The limit stays: a part of the tail determines it far worse than the whole.
        values.append(fit_law(fit.law, t[kept], np.log(energy[kept] - fit.limit), fit.limit).value)
    return float(np.sqrt((BLOCKS - 1) * np.var(values)))


def _implied_exponent(flow: AbstractFlow, order: float) -> float | None:
    """The Lojasiewicz exponent at which theory predicts this order."""

    def gap(exponent: float) -> float:
        bound = flow.predicted_decay(exponent, 1.0)
        return np.nan if bound is None else bound.order - order

    lowest, highest = 0.01, 1.0
    ends = gap(lowest), gap(highest)
    if not ends[0] * ends[1] < 0:
        return None
    return float(scipy.optimize.brentq(gap, lowest, highest))


def _doubts(fit: LawFit) -> tuple[Check, ...]:
    if fit.residual <= POOR:
        return ()
    message = (
        f"the best of the three laws leaves {fit.residual:.2g} in ln V: the energy follows none of them. Long steps do "
        "not follow the flow: run with shorter ones (LyapunovControl(decrease=0.9), say), or longer."
    )
    return (Check("one of the laws fits", None, message),)


def _compare(fit: LawFit, uncertainty: float, predicted: DecayBound) -> Check:
    """Theory gives a bound: a faster decay agrees with it. Two standard deviations of the fit are allowed for."""
    symbol, _ = _FORMULAS[fit.law]
    name, found = "decay as theory predicts", f"{fit.law} with {symbol} = {fit.value:.4g}, order {fit.order:.3f}"
    if fit.law == EXPONENTIAL and predicted.order == 1 and predicted.rate is not None:
        passed = fit.value + 2 * uncertainty >= (1 - RATE_AGREES) * predicted.rate
        return Check(name, passed, f"{found}; theory: exponential with r >= {predicted.rate:.4g}")
    # s = 1 + 1/p or 1 - 1/q, and so ds = dp / p**2.
    spread = 0.0 if fit.law == EXPONENTIAL else uncertainty / fit.value**2
    passed = fit.order - 2 * spread <= predicted.order + ORDER_AGREES
    return Check(name, passed, f"{found}; theory: order {predicted.order:.3f} or less, which is faster")
