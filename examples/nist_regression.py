"""Nonlinear regression with certified answers: an exponential and a saturating model of NIST's reference data.

Run it with `python examples/nist_regression.py`; it takes some seconds. Data, starts and certified parameters: NIST
Statistical Reference Datasets, nonlinear regression, Misra1a (level "lower") and MGH09 (level "higher"), which are in
the public domain. The fits are drawn into `nist.png`.
"""

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import odeopt

jax.config.update("jax_enable_x64", True)  # eleven digits are certified

MISRA1A = {
    "model": lambda y, x: y[0] * (1 - jnp.exp(-y[1] * x)),
    "x": [77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0],
    "y": [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78],
    "starts": ([500.0, 1e-4], [250.0, 5e-4]),
    "certified": [2.3894212918e02, 5.5015643181e-04],
}
MGH09 = {
    "model": lambda y, x: y[0] * (x**2 + x * y[1]) / (x**2 + x * y[2] + y[3]),
    "x": [4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625],
    "y": [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246],
    "starts": ([25.0, 39.0, 41.5, 39.0], [0.25, 0.39, 0.415, 0.39]),
    "certified": [1.9280693458e-01, 1.9128232873e-01, 1.2305650693e-01, 1.3606233068e-01],
}


def fit(problem, start):
    """The solution of a fit from one start."""
    data = (jnp.asarray(problem["x"]), jnp.asarray(problem["y"]))
    misfit = odeopt.LeastSquares(lambda y, data: problem["model"](y, data[0]) - data[1], data)
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
    # Relative to the start, because gradients of fits have the units of their data.
    stop = odeopt.Stop(gradient_norm=None, relative_gradient_norm=1e-13)
    return odeopt.minimise(misfit, solver, jnp.asarray(start), stop=stop, max_steps=200, throw=False)


def main():
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (name, problem) in zip(axes, {"Misra1a": MISRA1A, "MGH09": MGH09}.items(), strict=True):
        certified = np.array(problem["certified"])
        for number, start in enumerate(problem["starts"], start=1):
            solution = fit(problem, start)
            digits = -np.log10(np.max(np.abs(np.asarray(solution.value) - certified) / certified) + 1e-11)
            print(f"{name}, start {number}: {digits:.1f} certified digits, {int(solution.stats['accepted'])} steps")
        x = np.linspace(0, 1.05 * max(problem["x"]), 200)
        axis.plot(x, problem["model"](solution.value, x), color="#0072B2", label="fit")
        axis.plot(problem["x"], problem["y"], "o", color="#D55E00", markersize=4, label="observed")
        axis.set(title=name, xlabel="x", ylabel="y")
        axis.legend()
    figure.savefig("nist.png", dpi=120)


if __name__ == "__main__":
    main()
