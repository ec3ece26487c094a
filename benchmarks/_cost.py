"""Tables of cost: passes over the data until the gradient is small, forward 1, backward 2."""

import statistics

import jax
import jax.numpy as jnp
from _problems import cross_entropy, digits, digits_network

import odeopt

SEEDS = range(5)
FLOWS = {"Adam": odeopt.Adam, "HeavyBall": odeopt.HeavyBall, "GradientFlow": odeopt.GradientFlow}


def solve(flow, seed, *, controller=None, scale=1.0, tolerance=1e-6, dtype=jnp.float64, max_steps=20_000):
    """One run on digits from one seed; the tolerance is that of the unscaled loss."""
    return odeopt.minimise(
        cross_entropy,
        odeopt.Solver(flow, controller=controller),
        digits_network(seed, dtype),
        (digits(dtype), jnp.asarray(scale, dtype)),
        stop=odeopt.Stop(gradient_norm=tolerance * scale),
        max_steps=max_steps,
        history=None,
        throw=False,
    )


def costs(flow, **options) -> dict:
    """Cost of every seed, their median, and how many arrived."""
    solutions = [solve(flow, seed, **options) for seed in SEEDS]
    spent = [int(solution.stats["cost"]) for solution in solutions]
    trials = [int(solution.stats["accepted"] + solution.stats["rejected"]) for solution in solutions]
    by_rounding = [int(s.stats["gradient_test_rejections"]) / n for s, n in zip(solutions, trials, strict=True)]
    return {
        "median": statistics.median(spent),
        "seeds": spent,
        "arrived": sum(bool(s.result == odeopt.RESULTS.converged) for s in solutions),
        "rejected by rounding": f"{max(by_rounding):.1%}",
    }


def table_digits():
    """Cost to gradient norm 1e-6, float64, at the defaults."""
    return {name: costs(flow()) for name, flow in FLOWS.items()}


def table_scaling():
    """The same with loss and tolerance scaled: powers of two cost the same to the last trial."""
    scales = {"1": 1.0, "2^-20": 2.0**-20, "2^20": 2.0**20, "1e-6": 1e-6, "1e6": 1e6}
    return {f"Adam, loss times {name}": costs(odeopt.Adam(), scale=scale) for name, scale in scales.items()}


def table_float32():
    """Cost to gradient norm 1e-5 in float32, at the defaults."""
    return {name: costs(flow(), tolerance=1e-5, dtype=jnp.float32) for name, flow in FLOWS.items()}


def table_initial_step():
    """Cost for step sizes to start with from 1e-8 to 1e4."""
    rows = {}
    for name, flow in FLOWS.items():
        medians = {}
        for exponent in (-8, -6, -4, -2, 0, 2, 4):
            controller = odeopt.LyapunovControl(initial_step_size=10.0**exponent)
            medians[f"1e{exponent}"] = costs(flow(), controller=controller)["median"]
        best, worst = min(medians.values()), max(medians.values())
        rows[name] = medians | {"worst - best": worst - best, "worst / best": round(worst / best, 3)}
    return rows


def table_controller():
    """What the defaults of LyapunovControl were chosen from: Adam and heavy ball, median of 5 seeds."""
    rows = {}
    for decrease in (1e-4, 0.1, 0.25, 0.5):
        for grow in (1.5, 2.0, 3.0):
            for hold in (True, False):
                controller = odeopt.LyapunovControl(decrease=decrease, grow=grow, hold_growth=hold)
                name = f"decrease {decrease:g}, grow {grow:g}, {'held' if hold else 'not held'}"
                inertial = ("Adam", "HeavyBall")
                rows[name] = {key: costs(FLOWS[key](), controller=controller)["median"] for key in inertial}
    return rows


def table_constants():
    """The constants that calibration sets, around their defaults: of Adam, heavy ball and Lion."""
    import odeopt._flow.heavy_ball as heavy_ball
    import odeopt._flow.moments as moments
    import odeopt._flow.norms as norms

    choices = (
        (moments, "OPEN_EPSILON", odeopt.Adam),
        (heavy_ball, "OPEN_FRICTION", odeopt.HeavyBall),
        (norms, "OPEN_L1_SMOOTHING", odeopt.Lion),
    )
    return _around_defaults(choices)


def table_inertial():
    """The same for the other inertial flows, and Nesterov's, which leaves nothing open."""
    from odeopt._flow import din, energy_friction, friction_adaptive, high_resolution, hnag, relativistic

    choices = (
        (din, "OPEN_FRICTION", odeopt.DIN),
        (din, "OPEN_DAMPING", odeopt.DIN),
        (high_resolution, "OPEN_DAMPING", odeopt.HighResolutionNesterov),
        (hnag, "OPEN_GAMMA", odeopt.HNAG),
        (hnag, "OPEN_DAMPING", odeopt.HNAG),
        (relativistic, "OPEN_SPEED", odeopt.Relativistic),
        (friction_adaptive, "OPEN_FRICTION", odeopt.FrictionAdaptive),
        (friction_adaptive, "OPEN_RELAXATION", odeopt.FrictionAdaptive),
        (friction_adaptive, "OPEN_MASS", odeopt.FrictionAdaptive),
        (energy_friction, "OPEN_FRICTION", odeopt.EnergyFriction),
    )
    return {"Nesterov": costs(odeopt.Nesterov())} | _around_defaults(choices)


def _around_defaults(choices) -> dict:
    """Costs at constants around their defaults; `choices`: a module, the name of a constant in it, and a flow."""
    rows = {}
    for module, constant, flow in choices:
        default = getattr(module, constant)
        for factor in (0.01, 0.1, 1.0, 10.0):
            setattr(module, constant, factor * default)
            jax.clear_caches()  # a compiled program remembers the constant it was traced with
            rows[f"{flow.__name__}, {constant} {factor * default:g}"] = costs(flow())
        setattr(module, constant, default)
        jax.clear_caches()
    return rows
