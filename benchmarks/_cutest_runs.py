"""Quasi-Newton methods on CUTEst, all with one stopping rule and one count of what they execute.

Every contestant is `contestant(fn, y0, tolerance) -> (y, cost)`: defaults, up to `BUDGET` units, until the largest
entry of the gradient is at most the tolerance.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import optimistix as optx
import scipy.optimize
from _cutest import BUDGET, TOLERANCE, development, geometric_ratio, judged, profile

import odeopt

# A value and a gradient in one pass.
FUSED = 3
FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
REFERENCE = "scipy L-BFGS-B"


def table_cutest(dtype: str = "float64"):
    """CUTEst, every other problem of at most 200 variables: solved, cost over SciPy's L-BFGS-B, performance profile."""
    runs = judged({who: dict(_all_problems(contestant, dtype)) for who, contestant in CONTESTANTS.items()})
    shares = profile(runs, FACTORS)
    for who, of_one in runs.items():
        yield (
            who,
            {
                "solved": sum(run["solved"] for run in of_one.values()),
                "of them with 99.9% of the best decrease": sum(run["descended"] for run in of_one.values()),
                "at the best value": sum(run["lowest"] for run in of_one.values()),
                "cost ratio": round(geometric_ratio(of_one, runs[REFERENCE]), 3),
                "profile": dict(zip(map(str, FACTORS), np.round(shares[who], 3).tolist(), strict=True)),
                "seconds": round(sum(run["seconds"] for run in of_one.values())),
                "not solved": ", ".join(name for name, run in of_one.items() if not run["solved"]) or "none",
            },
        )


def table_cutest_float32():
    """The same in float32, to 1e-4."""
    yield from table_cutest("float32")


def _all_problems(contestant, dtype: str):
    for problem in development():
        # Constants of a problem would make its value double where that is switched on.
        with jax.enable_x64(dtype == "float64"):
            yield type(problem).__name__, run(contestant, problem, dtype)


def run(contestant, problem, dtype: str) -> dict:
    """One contestant on one problem."""
    y0 = jnp.asarray(problem.y0, dtype)
    arguments = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array_like(leaf) else leaf, problem.args
    )

    def fn(y):
        return problem.objective(y, arguments)

    evaluate = jax.jit(jax.value_and_grad(fn))
    first, gradient = evaluate(y0)
    tolerance = TOLERANCE[dtype] * max(1.0, float(jnp.max(jnp.abs(gradient))))
    tick = time.perf_counter()
    y, cost = contestant(fn, y0, tolerance)
    seconds = time.perf_counter() - tick
    value, gradient = evaluate(jnp.asarray(y, dtype))
    solved = bool(jnp.max(jnp.abs(gradient)) <= tolerance) and int(cost) <= BUDGET
    jax.clear_caches()
    numbers = {"first": float(first), "value": float(value), "gradient": float(jnp.max(jnp.abs(gradient)))}
    return numbers | {"cost": int(cost), "solved": solved, "seconds": round(seconds, 2)}


def by_odeopt(flow, controller=None):
    def minimise(fn, y0, tolerance):
        stop = odeopt.Stop(gradient_norm=tolerance, norm=optx.max_norm, max_evaluations=BUDGET)
        settings = {"stop": stop, "max_steps": BUDGET, "history": None, "throw": False}
        solution = odeopt.minimise(lambda y, _: fn(y), odeopt.Solver(flow, controller=controller), y0, **settings)
        return solution.value, solution.stats["cost"]

    return minimise


def by_scipy(method: str, **options):
    def minimise(fn, y0, tolerance):
        evaluate = jax.jit(jax.value_and_grad(fn))
        made = 0

        def value_and_gradient(y):
            nonlocal made
            made += 1
            value, gradient = evaluate(jnp.asarray(y, y0.dtype))
            return float(value), np.asarray(gradient, np.float64)

        options["maxiter"] = BUDGET // FUSED
        found = scipy.optimize.minimize(
            value_and_gradient,
            np.asarray(y0, np.float64),
            jac=True,
            method=method,
            options=options | {"gtol": tolerance},
        )
        return found.x, FUSED * made

    return minimise


def by_optax(fn, y0, tolerance):
    transformation = optax.lbfgs()
    evaluate = optax.value_and_grad_from_state(fn)

    @jax.jit
    def solve(start):
        def going_on(carry):
            _, _, gradient, cost = carry
            return (jnp.max(jnp.abs(gradient)) > tolerance) & (cost < BUDGET)

        def update(carry):
            y, state, _, cost = carry
            value, gradient = evaluate(y, state=state)
            changes, state = transformation.update(gradient, state, y, value=value, grad=gradient, value_fn=fn)
            made = optax.tree.get(state, "num_linesearch_steps")
            gradient = optax.tree.get(state, "grad")
            return optax.apply_updates(y, changes), state, gradient, cost + FUSED * made

        first = (start, transformation.init(start), jax.grad(fn)(start), jnp.asarray(FUSED))
        y, *_, cost = jax.lax.while_loop(going_on, update, first)
        return y, cost

    return solve(y0)


def by_optimistix(make):
    solver = make(rtol=0.0, atol=0.0)

    def minimise(fn, y0, tolerance):
        def with_aux(y, args):
            return fn(y), None

        @jax.jit
        def solve(start):
            like = jax.eval_shape(fn, start)
            state = solver.init(with_aux, start, None, {}, like, None, frozenset())
            arrays, rest = eqx.partition(state, eqx.is_array)

            def going_on(carry):
                _, state, made = carry
                cost = made + 2 * state.num_accepted_steps
                begun = state.num_accepted_steps > 0
                return ~(begun & (jnp.max(jnp.abs(state.f_info.grad)) <= tolerance)) & (cost < BUDGET)

            def step(carry):
                y, arrays, made = carry
                y, state, _ = solver.step(with_aux, y, None, {}, eqx.combine(arrays, rest), frozenset())
                return y, eqx.filter(state, eqx.is_array), made + 1

            y, state, made = jax.lax.while_loop(going_on, step, (start, arrays, jnp.asarray(0)))
            return y, made + 2 * state.num_accepted_steps

        return solve(y0)

    return minimise


def by_jaxopt(fn, y0, tolerance):
    solver = jaxopt.LBFGS(fn, maxiter=BUDGET)

    @jax.jit
    def solve(start):
        state = solver.init_state(start)

        def going_on(carry):
            _, state = carry
            cost = state.num_fun_eval + 2 * state.num_grad_eval
            return (jnp.max(jnp.abs(state.grad)) > tolerance) & (cost < BUDGET)

        y, state = jax.lax.while_loop(going_on, lambda carry: tuple(solver.update(*carry)), (start, state))
        return y, state.num_fun_eval + 2 * state.num_grad_eval

    return solve(y0)


CONTESTANTS = {
    "QuasiNewton": by_odeopt(odeopt.QuasiNewton()),
    "QuasiNewton(update='bfgs')": by_odeopt(odeopt.QuasiNewton(update="bfgs")),
    "QuasiNewton(pairs=10)": by_odeopt(odeopt.QuasiNewton(pairs=10)),
    "QuasiNewton, TrustRegionControl": by_odeopt(odeopt.QuasiNewton(), odeopt.TrustRegionControl(model="newton")),
    # Its own stop on a small change of the value is not the rule of this comparison.
    REFERENCE: by_scipy("L-BFGS-B", ftol=0.0, maxfun=BUDGET // FUSED),
    "scipy BFGS": by_scipy("BFGS"),
    "optax.lbfgs": by_optax,
    "optimistix.BFGS": by_optimistix(optx.BFGS),
    "optimistix.LBFGS": by_optimistix(optx.LBFGS),
    "jaxopt.LBFGS": by_jaxopt,
}
