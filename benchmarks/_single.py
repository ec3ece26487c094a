"""Single precision: whether runs end by themselves, with a reason, and as low as rounding lets them."""

from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _cutest import BUDGET, development
from _nist import problems
from _ten import BENCHMARKS
from pde_problems import PINNS

import odeopt
from odeopt._results import name_of

LEVENBERG = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
TO_THE_END = odeopt.Stop(gradient_norm=0.0)
TRIALS = 5000
# The same in double precision is not followed further: the limit is that of its parameters rounded, by far the larger.
TRIALS_IN_DOUBLE = 2000
# Over the limit of rounding.
ALLOWED = 10.0


def table_float32():
    """Losses in float32 over what is left of a solution in float64 when it is rounded; how the runs end."""
    rows = {f"NIST {key}": cases for key, cases in _nist().items()}
    rows |= {f"Runge, seed {seed}": [_runge(seed)] for seed in range(3)}
    rows |= {f"PINN {name}": [(pinn.objective, pinn.make_model(0, jnp.float64))] for name, pinn in PINNS.items()}
    ends: Counter = Counter()
    nist = {"within": 0, "of": 0, "worst": 0.0, "not within": []}
    for name, cases in rows.items():
        for objective, start in cases:
            ratio, solution = _over_limit(objective, start)
            end = _name(solution)
            ends[end] += 1
            if name.startswith("NIST"):
                nist["of"] += 1
                nist["within"] += ratio <= ALLOWED
                nist["worst"] = max(nist["worst"], ratio)
                nist["not within"] += [f"{name[5:]} ({ratio:.2g})"] if not ratio <= ALLOWED else []
            else:
                yield name, {"loss": f"{float(solution.loss):.1e}", "over limit": f"{ratio:.2g}", "end": end}
            jax.clear_caches()
    yield "NIST", nist | {"not within": ", ".join(nist["not within"]) or "none"}
    yield "ends of all", dict(ends)
    yield "CUTEst, QuasiNewton to the end", _cutest_ends()


def _over_limit(objective, start) -> tuple[float, odeopt.Solution]:
    """The loss of a run in float32 over the limit of rounding, and the run."""
    double = _solve(objective(jnp.float64), start, TRIALS_IN_DOUBLE)
    single = objective(jnp.float32)
    solution = _solve(single, _cast(start, jnp.float32), TRIALS)
    rounded = eqx.filter_jit(single.value)(_cast(double.value, jnp.float32))
    return float(solution.loss) / float(rounded), solution


def _solve(objective, start, trials: int) -> odeopt.Solution:
    options = {"stop": TO_THE_END, "max_steps": trials, "history": None, "throw": False}
    return eqx.filter_jit(lambda y: odeopt.minimise(objective, LEVENBERG, y, **options))(start)


def _nist() -> dict:
    def made(problem):
        def objective(dtype):
            return odeopt.LeastSquares(
                problem.residual, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), problem.data)
            )

        return [(objective, jnp.asarray(start)) for start in problem.starts]

    return {key: made(problem) for key, problem in problems().items()}


def _runge(seed: int):
    _, network, _ = BENCHMARKS["Runge"].make(seed, jnp.dtype("float64"))

    def objective(dtype):
        _, _, data = BENCHMARKS["Runge"].make(seed, jnp.dtype(dtype))
        return odeopt.LeastSquares(
            lambda network, sample: network(sample[0]) - sample[1], data, per_sample=True, reduction="mean"
        )

    return objective, network


def _cutest_ends() -> dict:
    """How runs to the end of what float32 resolves do end."""
    ends: Counter = Counter()
    stop = odeopt.Stop(gradient_norm=0.0, max_evaluations=BUDGET)
    for problem in development():
        arguments = _cast(problem.args, jnp.float32)
        solution = odeopt.minimise(
            lambda y, args, problem=problem: problem.objective(y, args),
            odeopt.Solver(odeopt.QuasiNewton()),
            jnp.asarray(problem.y0, jnp.float32),
            arguments,
            stop=stop,
            max_steps=BUDGET,
            history=None,
            throw=False,
        )
        ends[_name(solution)] += 1
        if not np.all(np.isfinite(np.asarray(solution.value))) or not np.isfinite(float(solution.loss)):
            ends["not finite"] += 1
        jax.clear_caches()
    return dict(ends)


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array_like(leaf) else leaf, tree)


def _name(solution: odeopt.Solution) -> str:
    return name_of(int(solution.result._value))
