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
# A trial with the larger networks takes half a second.
TRIALS_OF_PINNS = 400
# Over the limit of rounding.
ALLOWED = 10.0


def table_nist():
    """NIST's fits in float32: from how many starts the loss comes within ten times the limit of rounding."""
    ends: Counter = Counter()
    ratios = {}
    for key, problem in problems().items():
        for number, start in enumerate(problem.starts, start=1):
            ratios[f"{key} {number}"], solution = _over_limit(_nist(problem), jnp.asarray(start), TRIALS, TRIALS)
            ends[_name(solution)] += 1
            jax.clear_caches()
    beyond = {name: ratio for name, ratio in ratios.items() if not ratio <= ALLOWED}
    found = f"{len(ratios) - len(beyond)} of {len(ratios)}"
    others = ", ".join(f"{name} ({ratio:.2g})" for name, ratio in beyond.items()) or "none"
    yield "LevenbergMarquardt", {"within ten times": found, "others": others, "ends": dict(ends)}


def table_runge():
    """Runge's function in float32: the loss, and how many times the limit of rounding it is; three seeds."""
    for seed in range(3):
        ratio, solution = _over_limit(*_runge(seed), TRIALS, TRIALS)
        yield f"seed {seed}", _row(ratio, solution)


def table_pinns():
    """The networks of differential equations in float32, after a fixed number of trials."""
    for name, pinn in PINNS.items():
        start = pinn.make_model(0, jnp.float64)
        ratio, solution = _over_limit(pinn.objective, start, TRIALS_OF_PINNS, TRIALS_OF_PINNS)
        yield name, _row(ratio, solution) | {"error": f"{pinn.error(solution.value):.1e}"}


def table_ends():
    """How QuasiNewton ends on CUTEst's problems in float32, where nothing but rounding or a budget stops it."""
    yield "QuasiNewton", _cutest_ends()


def _row(ratio: float, solution: odeopt.Solution) -> dict:
    return {"loss": f"{float(solution.loss):.1e}", "over limit": f"{ratio:.2g}", "end": _name(solution)}


def _over_limit(objective, start, trials: int, trials_in_double: int) -> tuple[float, odeopt.Solution]:
    """The loss of a run in float32 over what is left of a solution in float64 when it is rounded; and the run."""
    double = _solve(objective(jnp.float64), start, trials_in_double)
    single = objective(jnp.float32)
    solution = _solve(single, _cast(start, jnp.float32), trials)
    rounded = eqx.filter_jit(single.value)(_cast(double.value, jnp.float32))
    return float(solution.loss) / float(rounded), solution


def _solve(objective, start, trials: int) -> odeopt.Solution:
    options = {"stop": TO_THE_END, "max_steps": trials, "history": None, "throw": False}
    return eqx.filter_jit(lambda y: odeopt.minimise(objective, LEVENBERG, y, **options))(start)


def _nist(problem):
    return lambda dtype: odeopt.LeastSquares(problem.residual, _cast(problem.data, dtype))


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
    for problem in development():
        # Constants of a problem would make its value double where that is switched on.
        with jax.enable_x64(False):
            solution = _to_the_end(problem)
        ends[_name(solution)] += 1
        if not np.all(np.isfinite(np.asarray(solution.value))) or not np.isfinite(float(solution.loss)):
            ends["not finite"] += 1
        jax.clear_caches()
    return dict(ends)


def _to_the_end(problem) -> odeopt.Solution:
    return odeopt.minimise(
        lambda y, args: problem.objective(y, args),
        odeopt.Solver(odeopt.QuasiNewton()),
        jnp.asarray(problem.y0, jnp.float32),
        _cast(problem.args, jnp.float32),
        stop=odeopt.Stop(gradient_norm=0.0, max_evaluations=BUDGET),
        max_steps=BUDGET,
        history=None,
        throw=False,
    )


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array_like(leaf) else leaf, tree)


def _name(solution: odeopt.Solution) -> str:
    return name_of(int(solution.result._value))
