"""Tables of time: per trial against a hand-written loop and diffrax, per Runge-Kutta step, per starting point."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from _handwritten import heavy_ball
from _problems import diagonal_quadratic, polynomial_two, wide_network
from _timing import alternate, median_ratio

import odeopt

DTYPE = jnp.float32


def _library_run(loss, solver, max_steps):
    @eqx.filter_jit
    def run(x, args):
        stop = odeopt.Stop(gradient_norm=0.0)
        return odeopt.minimise(loss, solver, x, args, stop=stop, max_steps=max_steps, history=None, throw=False)

    return run


def table_trial():
    """Seconds per trial over a hand-written loop: heavy ball, semi-implicit Euler, the same test."""
    cases = {
        "MLP, 670k parameters": (wide_network(DTYPE), 150),
        "quadratic, 1e6 parameters": (diagonal_quadratic(10**6, DTYPE), 60),
        "quadratic, 1e4 parameters": (diagonal_quadratic(10**4, DTYPE), 2000),
        "quadratic, 2 parameters": (diagonal_quadratic(2, DTYPE), 30_000),
    }
    rows = {}
    for name, ((loss, args, x), trials) in cases.items():
        for gradient_test in (True, False):
            rows[f"{name}, gradient test {'on' if gradient_test else 'off'}"] = _trial_row(
                loss, args, x, trials, gradient_test
            )
    return rows


def _trial_row(loss, args, x, trials, gradient_test):
    number = lambda value: jnp.asarray(value, DTYPE)  # noqa: E731

    @jax.jit
    def by_hand(x, args):
        return heavy_ball(lambda x: loss(x, args), x, number(0.1), number(0.01), trials, number(0.0), gradient_test)

    controller = odeopt.LyapunovControl(
        initial_step_size=0.01, scouting_growth=2, rounding=10.0 if gradient_test else None
    )
    solver = odeopt.Solver(odeopt.HeavyBall(0.1), odeopt.SemiImplicitEuler(), controller)
    library = _library_run(loss, solver, trials)
    ours, theirs = library(x, args), by_hand(x, args)
    made = int(ours.stats["accepted"] + ours.stats["rejected"])
    if made != int(theirs.trials):
        raise RuntimeError(f"the two loops made {made} and {int(theirs.trials)} trials: they are not the same method")
    seconds = alternate({"hand": lambda: by_hand(x, args), "library": lambda: library(x, args)})
    ratio = median_ratio(lambda: library(x, args), lambda: by_hand(x, args))
    return {
        "ratio": round(ratio, 3),
        "library, us a trial": round(seconds["library"] / made * 1e6, 3),
        "by hand, us a trial": round(seconds["hand"] / made * 1e6, 3),
    }


class _LyapunovController(diffrax.AbstractStepSizeController):
    """The same test inside diffeqsolve: gradient flow, explicit Euler, V evaluated by the controller."""

    loss: object = eqx.field(static=True)

    def wrap(self, direction):
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return t0 + dt0, (self.loss(y0, args), jnp.asarray(False), dt0)

    def adapt_step_size(self, t0, t1, y0, y1, args, y_error, error_order, controller_state):
        value, held, h = controller_state
        gradient = jax.grad(self.loss)(y0, args)
        rate = -sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
        after = self.loss(y1, args)
        keep = jnp.isfinite(after) & (after - value <= 0.1 * h * rate)
        h = h * jnp.where(keep, jnp.where(held, 1.0, 2.0), 0.5).astype(h.dtype)
        start = jnp.where(keep, t1, t0)
        state = (jnp.where(keep, after, value), ~keep, h)
        return keep, start, start + h, jnp.asarray(False), state, diffrax.RESULTS.successful


def table_diffrax(trials=100):
    """Seconds per trial over diffrax.diffeqsolve with an equivalent controller: gradient flow, explicit Euler."""
    loss, args, x = wide_network(DTYPE)
    controller = odeopt.LyapunovControl(initial_step_size=0.01, scouting_growth=2, rounding=None)
    library = _library_run(loss, odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller), trials)
    term = diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.negative, jax.grad(loss)(y, args)))

    @jax.jit
    def inside(x, args):
        return diffrax.diffeqsolve(
            term,
            diffrax.Euler(),
            0.0,
            1e9,
            0.01,
            x,
            args,
            stepsize_controller=_LyapunovController(loss),
            max_steps=trials,
            throw=False,
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(),
        )

    ours, theirs = library(x, args), inside(x, args)
    made = int(ours.stats["accepted"] + ours.stats["rejected"]), int(theirs.stats["num_steps"])
    if made[0] != made[1]:
        raise RuntimeError(f"the two solves made {made} trials: they are not comparable")
    ratio = median_ratio(lambda: library(x, args), lambda: inside(x, args), rounds=9)
    return {"MLP, 670k parameters": {"ratio": round(ratio, 3), "accepted": int(theirs.stats["num_accepted_steps"])}}


def table_runge_kutta(size=10**6, steps=3):
    """One step at 1e6 parameters over diffrax's solver.step, in time and temporary memory."""
    diagonal = jnp.linspace(0.1, 1.0, size, dtype=DTYPE)
    x = jnp.ones(size, DTYPE)
    rows = {}
    for scheme, solver in (
        (odeopt.Heun(), diffrax.Heun()),
        (odeopt.Bosh3(), diffrax.Bosh3()),
        (odeopt.Tsit5(), diffrax.Tsit5()),
    ):
        ours, theirs = _our_step(scheme), _their_step(solver)
        memory = [step.lower(x, diagonal).compile().memory_analysis().temp_size_in_bytes for step in (ours, theirs)]
        difference = float(jnp.max(jnp.abs(ours(x, diagonal) - theirs(x, diagonal))))
        ratio = median_ratio(lambda ours=ours: ours(x, diagonal), lambda theirs=theirs: theirs(x, diagonal))
        rows[type(scheme).__name__] = {
            "time ratio": round(ratio, 3),
            "memory ratio": round(memory[0] / memory[1], 3),
            "our MB": round(memory[0] / 2**20, 1),
            "their MB": round(memory[1] / 2**20, 1),
            "difference": difference,
        }
    return rows


def _field(t, y, diagonal):
    return -diagonal * y


def _our_step(scheme):
    class Linear(odeopt.AbstractFlow):
        diagonal: object

        def init(self, params):
            return odeopt.State(params)

        def vector_field(self, t, state, oracle):
            return odeopt.State(_field(t, state.position, self.diagonal))

        def energy(self, t, state, oracle):
            return oracle.value

    from odeopt._objective import Tally

    @jax.jit
    def step(x, diagonal):
        # The field reads no gradient, so that a step of ours and one of diffrax do the same work.
        oracle = odeopt.Oracle(odeopt.Objective(lambda y, _: jnp.sum(y)), x, Tally())
        t, h = jnp.zeros((), DTYPE), jnp.asarray(0.1, DTYPE)
        return scheme.step(Linear(diagonal), t, h, odeopt.State(x), oracle).state.position

    return step


def _their_step(solver):
    term = diffrax.ODETerm(_field)

    @jax.jit
    def step(x, diagonal):
        t, h = jnp.zeros((), DTYPE), jnp.asarray(0.1, DTYPE)
        state = solver.init(term, t, h, x, diagonal)
        return solver.step(term, t, h, x, diagonal, state, made_jump=False)[0]

    return step


def table_starts(starts=100_000, batch=256):
    """Useful trials per second: 1e5 starting points of polynomial "two", float64, in batches, on all cores."""
    from jax.sharding import AxisType, PartitionSpec

    published = {"decrease": 0.5, "initial_step_size": 0.1, "grow": 1e4, "hold_growth": False, "rounding": None}
    inertial = published | {"decrease": 0.125, "rate": "trial", "maximum_step_size": 0.5}
    solvers = {
        "LCM, gradient flow": odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.LyapunovControl(**published)),
        "heavy ball": odeopt.Solver(
            odeopt.HeavyBall(2.0), odeopt.SemiImplicitEuler(), odeopt.LyapunovControl(**inertial)
        ),
    }
    devices = len(jax.devices())
    mesh = jax.make_mesh((devices,), ("starts",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("starts")
    y0 = jax.random.uniform(jax.random.key(0), (starts, 2), jnp.float64, -3, 3)
    rows = {}
    for name, solver in solvers.items():

        def one(y, solver=solver):
            stop = odeopt.Stop(gradient_norm=1e-4, kinetic=False)
            solution = odeopt.minimise(
                polynomial_two, solver, y, stop=stop, max_steps=100_000, history=None, throw=False
            )
            return solution.value, solution.stats["accepted"] + solution.stats["rejected"]

        def many(y, one=one):
            return jax.lax.map(one, y, batch_size=batch)

        run = jax.jit(jax.shard_map(many, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
        trials = int(jnp.sum(run(y0)[1]))
        seconds = alternate({"run": lambda run=run: run(y0)}, rounds=7)["run"]
        rows[name] = {"trials per second": f"{trials / seconds:.3g}", "trials": trials, "devices": devices}
    return rows
