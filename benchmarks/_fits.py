"""Fits of models to data: nonlinear regression with certified answers, and a network on Runge's function."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import scipy.optimize
from _nist import problems
from _ten import BENCHMARKS

import odeopt

# A parameter is found where all of its certified digits up to this one are.
SIX_DIGITS = 1e-6
# As many trials as SciPy is given evaluations.
TRIALS = 5000
RUNGE_TARGET = 1e-12
# Some three minutes.
OPTIMISTIX_STEPS = 2000


def table_nist():
    """Starts from which the certified parameters of NIST's problems are found to six digits, two for each problem."""
    for name, fit in CONTESTANTS.items():
        errors = {
            f"{key} {index + 1}": _error(fit(problem, start), problem.certified)
            for key, problem in problems().items()
            for index, start in enumerate(problem.starts)
        }
        failed = [key for key, error in errors.items() if not error <= SIX_DIGITS]
        yield name, {"found": f"{len(errors) - len(failed)} of {len(errors)}", "not from": ", ".join(failed) or "none"}


def _error(found, certified) -> float:
    return float(np.max(np.abs(np.asarray(found) - certified) / np.abs(certified)))


def _by_odeopt(scheme):
    def fit(problem, start):
        misfit = odeopt.LeastSquares(problem.residual, jax.tree.map(jnp.asarray, problem.data))
        solver = odeopt.Solver(odeopt.GradientFlow(), scheme)
        # To the end: the gradient of a fit is as large as the units of its data.
        stop = odeopt.Stop(gradient_norm=0.0)
        options = {"stop": stop, "max_steps": TRIALS, "history": None, "throw": False}
        solution = odeopt.minimise(misfit, solver, jnp.asarray(start), **options)
        jax.clear_caches()
        return solution.value

    return fit


def _by_scipy(method, **options):
    def fit(problem, start):
        data = jax.tree.map(jnp.asarray, problem.data)
        residual = jax.jit(lambda y: problem.residual(y, data))
        jacobian = jax.jit(jax.jacfwd(lambda y: problem.residual(y, data)))
        tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": TRIALS}
        found = scipy.optimize.least_squares(
            lambda y: np.asarray(residual(y)),
            start,
            lambda y: np.asarray(jacobian(y)),
            method=method,
            **tight,
            **options,
        )
        return found.x

    return fit


CONTESTANTS = {
    "LevenbergMarquardt": _by_odeopt(odeopt.LevenbergMarquardt()),
    "LevenbergMarquardt, geodesic=False": _by_odeopt(odeopt.LevenbergMarquardt(geodesic=False)),
    "scipy, trf": _by_scipy("trf"),
    "scipy, lm, x_scale='jac'": _by_scipy("lm", x_scale="jac"),
}


def table_runge():
    """Seconds until a network fits Runge's function to a mean square of 1e-12, compilation apart; three seeds."""
    for seed in range(3):
        _, network, (x, y) = BENCHMARKS["Runge"].make(seed, jnp.dtype("float64"))
        misfit = odeopt.LeastSquares(
            lambda network, sample: network(sample[0]) - sample[1], (x, y), per_sample=True, reduction="mean"
        )
        for name, scheme in SCHEMES.items():
            yield f"{name}, seed {seed}", _fitted(misfit, network, scheme)
        yield f"optimistix, seed {seed}", _fitted_by_optimistix(misfit, network)


SCHEMES = {
    "LevenbergMarquardt": odeopt.LevenbergMarquardt(),
    "geodesic=False": odeopt.LevenbergMarquardt(geodesic=False),
    "scaling='none'": odeopt.LevenbergMarquardt(scaling="none"),
}


def _fitted(misfit, network, scheme) -> dict:
    solver = odeopt.Solver(odeopt.GradientFlow(), scheme)
    stop = odeopt.Stop(target_loss=RUNGE_TARGET)

    @eqx.filter_jit
    def run(network):
        return odeopt.minimise(misfit, solver, network, stop=stop, max_steps=5000, history=None, throw=False)

    jax.block_until_ready(run(network).loss)
    tick = time.perf_counter()
    solution = run(network)
    loss = float(solution.loss)
    trials = int(solution.stats["accepted"] + solution.stats["rejected"])
    return {"seconds": round(time.perf_counter() - tick, 3), "loss": f"{loss:.1e}", "trials": trials}


class _Until(optx.LevenbergMarquardt):
    """Ends at a value of half the sum of squares, as the other contestants do."""

    def terminate(self, fn, y, args, options, state, tags):
        return ~state.first_step & (state.f_info.as_min() <= RUNGE_TARGET), optx.RESULTS.successful


def _fitted_by_optimistix(misfit, network) -> dict:
    parameters, rest = eqx.partition(network, eqx.is_inexact_array)

    @eqx.filter_jit
    def run(parameters, max_steps):
        found = optx.least_squares(
            lambda y, _: misfit.residuals(eqx.combine(y, rest)),
            _Until(rtol=0.0, atol=0.0),
            parameters,
            max_steps=max_steps,
            throw=False,
        )
        return misfit.value(eqx.combine(found.value, rest)), found.stats["num_steps"]

    tick = time.perf_counter()
    compiled = run.lower(parameters, OPTIMISTIX_STEPS).compile()
    compilation = time.perf_counter() - tick
    tick = time.perf_counter()
    loss, steps = (float(number) for number in compiled(parameters, OPTIMISTIX_STEPS))
    seconds = round(time.perf_counter() - tick, 3)
    return {"seconds": seconds, "loss": f"{loss:.1e}", "trials": int(steps), "compilation": round(compilation, 1)}
