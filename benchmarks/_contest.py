"""Contestants of the catalogue, run to one stopping rule: flows of the library, and optimizers of optax at swept rates.

Solved is a problem at `max |g| <= tolerance * max(1, max |g0|)`, and for networks at a tenth of the first loss: where a
network is saturated the gradient vanishes too. Cost: forward 1, backward 2.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
from _ten import Benchmark

import odeopt

TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
# From 1e-4 to 1e-1, and beyond, so that the best one of a problem does not lie at the end.
RATES = (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1, 10**-0.5, 1.0, 10**0.5, 10.0, 10**1.5, 100.0)
SWEPT: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "nadam": optax.nadam,
    "lion": optax.lion,
    "momentum sgd": lambda rate: optax.sgd(rate, momentum=0.9),
}
PARAMETER_FREE: dict[str, Callable[[], optax.GradientTransformation]] = {
    "prodigy": lambda: optax.contrib.prodigy(),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(),
}
# What an update of optax costs: a value and a gradient in one pass.
FUSED = 3


def run_solver(solver: odeopt.Solver, benchmark: Benchmark, seed: int, dtype: str) -> dict:
    """Cost, end and loss of a solver of the library."""
    fn, y0, args = benchmark.make(seed, jnp.dtype(dtype))

    def solve(y0):
        parameters, rest = eqx.partition(y0, eqx.is_inexact_array)
        gradient = jax.grad(lambda p: fn(eqx.combine(p, rest), args))(parameters)
        tolerance = TOLERANCE[dtype] * jnp.maximum(1.0, optx.max_norm(gradient))
        stop = odeopt.Stop(gradient_norm=tolerance, max_evaluations=benchmark.budget, norm=optx.max_norm, kinetic=False)
        steps = 4 * benchmark.budget
        solution = odeopt.minimise(fn, solver, y0, args, stop=stop, max_steps=steps, history=None, throw=False)
        solved = (solution.result == odeopt.RESULTS.converged) & (solution.loss <= benchmark.ceiling(fn(y0, args)))
        return solution.loss, solved, solution.stats["cost"], solution.result

    if not benchmark.lanes:
        loss, solved, cost, result = eqx.filter_jit(solve)(y0)
        return {"loss": float(loss), "solved": bool(solved), "cost": int(cost), "result": str(result)}
    loss, solved, cost, _ = eqx.filter_jit(eqx.filter_vmap(solve))(y0)
    return {"loss": float(jnp.median(loss)), "solved": float(jnp.mean(solved)), "cost": int(jnp.sum(cost))}


def run_peer(make: Callable, rate: float | None, benchmark: Benchmark, seed: int, dtype: str) -> dict:
    """The same for an optimizer of optax at one rate, or at its defaults."""
    fn, y0, args = benchmark.make(seed, jnp.dtype(dtype))
    parameters, rest = eqx.partition(y0, eqx.is_inexact_array)
    updates = benchmark.budget // FUSED

    @jax.jit
    def solve(parameters, args, rate):
        transformation = make() if rate is None else make(rate)

        def one(start):
            evaluate = jax.value_and_grad(lambda p: fn(eqx.combine(p, rest), args))
            value, gradient = evaluate(start)
            tolerance = TOLERANCE[dtype] * jnp.maximum(1.0, optx.max_norm(gradient))

            ceiling = benchmark.ceiling(value)

            def arrived(value, gradient):
                return (optx.max_norm(gradient) <= tolerance) & (value <= ceiling)

            def under_way(carry):
                _, _, value, gradient, _, made = carry
                return (made < updates) & jnp.isfinite(value) & ~arrived(value, gradient)

            def update(carry):
                p, state, value, gradient, best, made = carry
                change, state = transformation.update(gradient, state, p)
                p = optax.apply_updates(p, change)
                value, gradient = evaluate(p)
                return p, state, value, gradient, jnp.fmin(best, value), made + 1

            first = (start, transformation.init(start), value, gradient, value, jnp.asarray(1))
            *_, value, gradient, best, made = jax.lax.while_loop(under_way, update, first)
            return best, arrived(value, gradient), FUSED * made

        return jax.vmap(one)(parameters) if benchmark.lanes else one(parameters)

    loss, solved, cost = solve(parameters, args, rate)
    if benchmark.lanes:
        return {"loss": float(jnp.median(loss)), "solved": float(jnp.mean(solved)), "cost": int(jnp.sum(cost))}
    return {"loss": float(loss), "solved": bool(solved), "cost": int(cost)}


def summary(runs: list[dict]) -> dict:
    """Of all seeds: how many are solved, the median cost, the median loss and the worst of both."""
    solved = [float(run["solved"]) for run in runs]
    return {
        "solved": float(np.mean(solved)),
        "cost": float(np.median([run["cost"] for run in runs])),
        "loss": float(np.median([run["loss"] for run in runs])),
        "worst loss": float(np.max([run["loss"] for run in runs])),
    }
