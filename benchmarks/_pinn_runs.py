"""Physics-informed networks: relative errors against time."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from pde_problems import PINNS

import odeopt

# Relative L2 errors that are asked for, within so many seconds on two cores.
TARGETS = {"poisson": 1e-7, "heat": 1e-7, "burgers": 1e-5, "allen_cahn": 1e-5}
SECONDS = 300.0
# Trials between two looks at the error, which is not known to the run.
BLOCK = 25


# As long as the other optimizers may take, on each problem: Levenberg-Marquardt takes less.
PEER_SECONDS = 30.0
RATE = 1e-3


def table_pinns():
    """Relative L2 error and seconds (compilation apart) of four networks that solve partial differential equations."""
    for name, pinn in PINNS.items():
        for who, solver, seconds in CONTESTANTS:
            yield f"{name}, {who}", _trained(pinn, solver, TARGETS[name], seconds)
        yield f"{name}, optax adam {RATE:g}, then optax.lbfgs", _trained_by_optax(pinn, TARGETS[name])


CONTESTANTS = (
    ("LevenbergMarquardt", odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt()), SECONDS),
    ("SSBroyden", odeopt.Solver(odeopt.QuasiNewton(update="self_scaled_broyden", pairs=0)), PEER_SECONDS),
    ("QuasiNewton", odeopt.Solver(odeopt.QuasiNewton(pairs=0)), PEER_SECONDS),
)


def _trained(pinn, solver: odeopt.Solver, target: float, limit: float) -> dict:
    """Train until the error is reached or the time is up."""
    objective, model = pinn.objective(jnp.float64), pinn.make_model(0, jnp.float64)
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
    error = pinn.error(solution.value)
    while error > target and time.perf_counter() - tick < limit and solution.result == odeopt.RESULTS.max_steps_reached:
        solution = go_on(model, solution.state)
        error = pinn.error(solution.value)
    return _row(error, tick, int(solution.stats["accepted"] + solution.stats["rejected"]), solution.loss)


def _trained_by_optax(pinn, target: float) -> dict:
    """Half of the time with Adam, and the other half with L-BFGS from there."""
    objective, model = pinn.objective(jnp.float64), pinn.make_model(0, jnp.float64)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)

    def value(parameters):
        return objective.value(eqx.combine(parameters, rest))

    def stepper(transformation, line_search: bool):
        @jax.jit
        def block(parameters, state):
            def step(carry, _):
                parameters, state = carry
                loss, gradient = jax.value_and_grad(value)(parameters)
                extra = {"value": loss, "grad": gradient, "value_fn": value} if line_search else {}
                updates, state = transformation.update(gradient, state, parameters, **extra)
                return (optax.apply_updates(parameters, updates), state), loss

            (parameters, state), losses = jax.lax.scan(step, (parameters, state), length=BLOCK)
            return parameters, state, losses[-1]

        return block, transformation.init(parameters)

    phases = [stepper(optax.adam(RATE), False), stepper(optax.lbfgs(), True)]
    for block, state in phases:
        jax.block_until_ready(block(parameters, state)[2])
    tick, trials, error, loss = time.perf_counter(), 0, jnp.inf, jnp.inf
    for number, (block, _) in enumerate(phases, start=1):
        state = (optax.adam(RATE), optax.lbfgs())[number - 1].init(parameters)
        while error > target and time.perf_counter() - tick < PEER_SECONDS * number / len(phases):
            parameters, state, loss = block(parameters, state)
            trials += BLOCK
            error = pinn.error(eqx.combine(parameters, rest))
    return _row(error, tick, trials, loss)


def _row(error, tick: float, trials: int, loss) -> dict:
    seconds = round(time.perf_counter() - tick, 1)
    return {"error": f"{float(error):.1e}", "seconds": seconds, "trials": trials, "loss": f"{float(loss):.1e}"}
