"""Physics-informed networks: relative errors against time."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
from _pinns import PINNS

import odeopt

# Relative L2 errors that are asked for, within so many seconds on two cores.
TARGETS = {"poisson": 1e-7, "heat": 1e-7, "burgers": 1e-5, "allen_cahn": 1e-5}
SECONDS = 300.0
# Trials between two looks at the error, which is not known to the run.
BLOCK = 25


def table_pinns():
    """Relative L2 error and seconds (compilation apart) of four networks that solve partial differential equations."""
    for name, pinn in PINNS.items():
        yield f"{name}, LevenbergMarquardt", _trained(pinn, odeopt.LevenbergMarquardt(), TARGETS[name])


def _trained(pinn, scheme, target: float) -> dict:
    """Train until the error is reached or the time is up."""
    objective, model = pinn.objective(jnp.float64), pinn.make_model(0, jnp.float64)
    solver = odeopt.Solver(odeopt.GradientFlow(), scheme)
    # Not to be ended by itself.
    options = {"stop": odeopt.Stop(gradient_norm=0.0), "max_steps": BLOCK, "history": None, "throw": False}

    @eqx.filter_jit
    def begin(model):
        return odeopt.minimise(objective, solver, model, **options)

    @eqx.filter_jit
    def go_on(model, state):
        return odeopt.minimise(objective, state.solver, model, state=state, **options)

    first = begin(model)
    jax.block_until_ready(go_on(model, first.state).loss)
    tick = time.perf_counter()
    solution = begin(model)
    while (error := pinn.error(solution.value)) > target and time.perf_counter() - tick < SECONDS:
        solution = go_on(model, solution.state)
    seconds = time.perf_counter() - tick
    trials = int(solution.stats["accepted"] + solution.stats["rejected"])
    return {
        "error": f"{float(error):.1e}",
        "seconds": round(seconds, 1),
        "trials": trials,
        "loss": f"{float(solution.loss):.1e}",
    }
