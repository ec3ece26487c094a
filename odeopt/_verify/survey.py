# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# NumPy and JAX arrays alike are handed around here.
"""All that is looked at of one flow on one terrain, before anything is judged."""

from dataclasses import dataclass

import jax
import numpy as np

from .._flow.base import AbstractFlow, State
from .._tree import size
from .points import Points, joined, rates_at
from .rates import Rates, part_names
from .samples import Samples, draw_samples, placed_on
from .terrain import AbstractTerrain, Users
from .trajectories import NODES, Starts, Trajectories, follow

# Numbers in all states together; an audit then stays below about half a gigabyte, whatever the model.
LARGEST_SURVEY = 2_000_000
# On a user's own objective, which may be a whole data set.
USERS_SAMPLES = 512
# Of the largest stationarity along a solution: as near to critical points as the random states are put.
CONVERGED = 1e-6
# A trajectory is no trajectory with fewer nodes.
FEWEST_NODES = 6


@dataclass(frozen=True)
class Survey:
    """States and what was found there.

    **Attributes:** `points`: the random states first, then those of `trajectories`; `rates`: at all of them;
    `usable`: which of them the flow can be in; `driven`: how many of them are random states; `moving`: which
    trajectories start away from critical points, the others start exactly at one; `samples`: the random states.
    """

    terrain: AbstractTerrain
    certificate: str
    points: Points
    rates: Rates
    usable: np.ndarray
    driven: int
    samples: Samples
    trajectories: Trajectories
    moving: np.ndarray

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the contributions to dV/dt."""
        return part_names(self.points.state)

    @property
    def finite(self) -> np.ndarray:
        """Where the flow can be and dV/dt is a number."""
        return self.usable & np.isfinite(self.rates.rate) & np.isfinite(self.rates.scale)

    @property
    def begun(self) -> np.ndarray:
        """The same after the start, where a flow with averages over the time since then has limits, and no rate."""
        return self.finite & (np.asarray(self.points.t) > 0)

    @property
    def judged(self) -> np.ndarray:
        """Where the flow claims that its energy does not rise."""
        return self.finite & claimed(self.certificate, self.terrain, self.points, self.driven)

    @property
    def relative_rate(self) -> np.ndarray:
        """dV/dt over the sum of its absolute contributions; zero where nothing contributes."""
        return relative(self.rates.rate, self.rates.scale)

    def along(self, name: str) -> np.ndarray:
        """One of the `rates` along the trajectories, shape `(lanes, nodes)`."""
        return self.trajectories.along(getattr(self.rates, name)[self.driven :])


def claimed(certificate: str, terrain: AbstractTerrain, points: Points, driven: int) -> np.ndarray:
    """At which points a flow claims that its energy does not rise; the first `driven` were reached by random slopes."""
    if certificate != "convex_only":
        return np.full(len(points.index), certificate == "lyapunov")
    # A random sequence of slopes is not one of gradients of a convex function: only without a memory is a driven state
    # one that a run on a convex objective can be in.
    remembers = bool(jax.tree.leaves(points.state.memory))
    past = np.arange(len(points.index)) >= driven if remembers else True
    return terrain.convex[points.index] & past


def relative(numerator: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.divide(numerator, scale, out=np.zeros_like(numerator), where=(scale > 0) | np.isnan(scale))


def survey(
    terrain: AbstractTerrain,
    flow: AbstractFlow,
    start: State,
    random: np.random.Generator,
    samples: int | Samples,
) -> Survey:
    """Look at a flow on a terrain; to be called in double precision.

    **Arguments:** `start`: what the flow's `init` makes of the parameters it is meant for; `samples`: how many random
    states, fewer where they are large; or states that were drawn before, on another terrain.
    """
    entries, parameters = size(start), start.position
    fit = max(LARGEST_SURVEY // entries, 1)
    if isinstance(samples, Samples):
        drawn = placed_on(terrain, samples, random, USERS_SAMPLES)
    else:
        drawn = draw_samples(terrain, flow, parameters, random, min(samples, fit))
    starts = _starts(terrain, flow.certificate)
    nodes = int(np.clip(fit // len(starts.index), FEWEST_NODES, NODES))
    trajectories = follow(terrain, flow, parameters, random, starts, nodes)
    points = joined(drawn.points, trajectories.points)
    rates = rates_at(terrain, points)
    return Survey(
        terrain=terrain,
        certificate=flow.certificate,
        points=points,
        rates=rates,
        usable=np.concatenate([drawn.reached, _resolved(trajectories, rates)]) & _defined(rates),
        driven=len(drawn.reached),
        samples=drawn,
        trajectories=trajectories,
        moving=~starts.at_rest,
    )


def _defined(rates: Rates) -> np.ndarray:
    """Where the objective itself is a number: a user's need not be everywhere."""
    return np.isfinite(rates.value) & np.isfinite(rates.gradient_norm)


def _resolved(trajectories: Trajectories, rates: Rates) -> np.ndarray:
    """Which states along solutions can be judged: those that have converged only show the rounding of gradients."""
    stationarity = trajectories.along(rates.stationarity[-trajectories.t.size :])
    with np.errstate(invalid="ignore"):
        moving = stationarity > CONVERGED * np.max(stationarity, axis=1, keepdims=True)
    return (trajectories.reached & moving).reshape(-1)


def _starts(terrain: AbstractTerrain, certificate: str) -> Starts:
    """From a few places of every objective; for a claim about convex ones from more places of those."""
    if isinstance(terrain, Users):
        index = np.zeros(2, int)
        return Starts(index, np.array([0.0, 1.0]), np.zeros(2, bool))
    every, convex = np.arange(len(terrain.names)), np.flatnonzero(terrain.convex)
    more = np.tile(convex, 6) if certificate == "convex_only" else every
    index = np.concatenate([every, more, every])
    near = np.concatenate([np.zeros(len(every)), np.full(len(more), 0.5), np.zeros(len(every))])
    return Starts(index, near, np.arange(len(index)) >= len(every) + len(more))
