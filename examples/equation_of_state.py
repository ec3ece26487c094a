"""A surrogate of an equation of state: pressure and energy of a stiffened gas from density and temperature.

Run it with `python examples/equation_of_state.py`; it takes about a minute. It prints the errors on states between
those of the training, and draws them into `equation_of_state.png`.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

import odeopt

jax.config.update("jax_enable_x64", True)  # squares of small residuals need the digits

# Water-like, SI units: p = (g - 1) rho c T - p_inf and e = c T + p_inf / rho (Le Metayer, Massoni and Saurel, 2004,
# Elaboration of a liquid and vapour's state laws for two-phase flow models).
GAMMA, HEAT, P_INF = 2.35, 1816.0, 1e9
DENSITY, TEMPERATURE = (500.0, 1500.0), (300.0, 1000.0)


def equation_of_state(density, temperature):
    """Pressure in Pa and energy in J/kg."""
    pressure = (GAMMA - 1) * density * HEAT * temperature - P_INF
    return np.stack([pressure, HEAT * temperature + P_INF / density], axis=-1)


def states(count: int, seed: int):
    """Random densities and temperatures, uniform in their logarithms, shape (count, 2)."""
    random = np.random.default_rng(seed)
    low, high = np.log([DENSITY, TEMPERATURE]).T
    return np.exp(random.uniform(low, high, (count, 2)))


def main():
    inputs = states(2000, seed=0)
    outputs = equation_of_state(*inputs.T)
    centre, spread = np.log(inputs).mean(0), np.log(inputs).std(0)
    mean, deviation = outputs.mean(0), outputs.std(0)

    def scaled(inputs):
        return jnp.asarray((np.log(inputs) - centre) / spread)

    def residual(model, sample):
        return model(sample[0]) - sample[1]

    data = (scaled(inputs), jnp.asarray((outputs - mean) / deviation))
    misfit = odeopt.LeastSquares(residual, data, per_sample=True, reduction="mean")
    model = eqx.nn.MLP(2, 2, 50, 1, jnp.tanh, key=jax.random.key(0))
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
    tick = time.monotonic()
    stop = odeopt.Stop(target_loss=1e-12)
    model, solution = odeopt.train(model, misfit, None, solver, stop=stop, max_steps=1000, time_limit=120)
    print(f"{solution} {time.monotonic() - tick:.0f} s.")

    density, temperature = np.meshgrid(np.geomspace(*DENSITY, 101), np.geomspace(*TEMPERATURE, 101))
    exact = equation_of_state(density, temperature)
    grid = scaled(np.stack([density, temperature], axis=-1))
    found = np.asarray(jax.vmap(jax.vmap(model))(grid)) * deviation + mean
    errors = np.abs(found - exact) / deviation
    for name, error in zip(("pressure", "energy"), np.moveaxis(errors, -1, 0), strict=True):
        print(
            f"{name}: error over the standard deviation, root mean square {np.sqrt(np.mean(error**2)):.1e}, "
            f"largest {np.max(error):.1e}"
        )
    draw(density, temperature, errors, "equation_of_state.png")


def draw(density, temperature, errors, path: str):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axis, error, name in zip(axes, np.moveaxis(errors, -1, 0), ("pressure", "energy"), strict=True):
        scale = LogNorm(np.max(error) / 1e4, np.max(error))
        shown = axis.pcolormesh(density, temperature, error, cmap="magma", norm=scale, rasterized=True)
        figure.colorbar(shown, ax=axis, label="error / standard deviation")
        axis.set(title=f"{name}", xlabel="density [kg/m³]")
    axes[0].set_ylabel("temperature [K]")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
