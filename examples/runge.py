"""Runge's function by a network, to the last digits that its loss can show.

Run it with `python examples/runge.py`; it takes a minute. Levenberg-Marquardt, a quasi-Newton flow and Adam train
the same network; losses against the cost are drawn into `runge.png`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import odeopt

jax.config.update("jax_enable_x64", True)  # squares of small residuals need the digits

SECONDS = 15.0
# Of Okabe and Ito, which everybody can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73")


def main():
    x = jnp.linspace(-1, 1, 200)
    model = eqx.nn.MLP("scalar", "scalar", 30, 2, jnp.tanh, key=jax.random.key(0))
    misfit = odeopt.LeastSquares(
        lambda model, sample: model(sample[0]) - sample[1], (x, 1 / (1 + 25 * x**2)), per_sample=True, reduction="mean"
    )
    solvers = {
        "LevenbergMarquardt": odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt()),
        "QuasiNewton": odeopt.Solver(odeopt.QuasiNewton(pairs=0)),
        "Adam": odeopt.Solver(odeopt.Adam()),
    }
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for (name, solver), colour in zip(solvers.items(), COLOURS, strict=True):
        clock: list[tuple[float, float]] = []
        _, solution = odeopt.train(
            model,
            misfit,
            None,
            solver,
            stop=odeopt.Stop(gradient_norm=0.0, target_loss=1e-14),
            max_steps=100_000,
            time_limit=SECONDS,
            history=None,
            callbacks=[lambda progress, clock=clock: clock.append((progress.elapsed, progress.loss))],
        )
        seconds, losses = np.array(clock).T
        axes.semilogy(seconds, losses, color=colour, label=name)
        print(f"{name}: mean square {float(solution.loss):.1e} after {seconds[-1]:.0f} s. {solution.result}")
    axes.set(
        xlabel="seconds, compilation included", ylabel="mean square error", title="Runge's function, 1021 parameters"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig("runge.png", dpi=120)


if __name__ == "__main__":
    main()
