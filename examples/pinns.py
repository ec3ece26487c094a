"""Solve partial differential equations with small networks, by Levenberg-Marquardt.

Run it with `python examples/pinns.py`, or name some: `python examples/pinns.py poisson heat burgers allen_cahn`. The
first two take some seconds, the others half a minute each, and compilation about as long. Every network is drawn beside
its distance from a solution that is known otherwise, into a picture such as `poisson.png`.
"""

import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from pde_problems import PINNS, values

import odeopt

jax.config.update("jax_enable_x64", True)  # squares of small residuals need the digits

TITLES = {"poisson": "Poisson", "heat": "heat equation", "burgers": "Burgers", "allen_cahn": "Allen-Cahn"}
# Where the mean squares of the residuals are as small, the errors are at or below 1e-7 and 1e-5.
TARGETS = {"poisson": 3e-11, "heat": 3e-13, "burgers": 1e-9, "allen_cahn": 3e-11}


def solve(pinn, target: float):
    """The trained network, the solution of the run, and the seconds that it took, compilation included."""
    model = pinn.make_model(0, jnp.float64)
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
    tick = time.monotonic()
    model, solution = odeopt.train(
        model, pinn.objective(jnp.float64), None, solver, stop=odeopt.Stop(target_loss=target), time_limit=300
    )
    return model, solution, time.monotonic() - tick


def draw(pinn, model, path: str):
    """The network and its distance from the reference."""
    x, t, u = pinn.reference()
    found = np.asarray(values(model, jnp.asarray(x), jnp.asarray(t)))
    second = "y" if pinn.name == "poisson" else "t"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    shown = axes[0].pcolormesh(t, x, found, cmap="viridis", rasterized=True)
    figure.colorbar(shown, ax=axes[0], label="u")
    far = axes[1].pcolormesh(t, x, np.abs(found - u), cmap="magma", rasterized=True)
    figure.colorbar(far, ax=axes[1], label="|network - reference|")
    axes[0].set(title=f"{TITLES[pinn.name]}: network", xlabel=second, ylabel="x")
    axes[1].set(title="distance from the reference", xlabel=second)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(names):
    for name in names:
        pinn = PINNS[name]
        model, solution, seconds = solve(pinn, TARGETS[name])
        draw(pinn, model, f"{name}.png")
        parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
        print(
            f"{name}: relative L2 error {pinn.error(model):.1e} with {parameters} parameters, mean square of the "
            f"residuals {float(solution.loss):.1e}, {solution.stats['accepted']} steps, {seconds:.0f} s. {name}.png"
        )


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(PINNS)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PINNS)}")
    main(sys.argv[1:] or list(PINNS))
