r"""Four physics-informed networks: partial differential equations solved as sums of squares.

A network \(u_\theta(x, t)\) is put into an equation at fixed points, and the mean squares of what is left over are
minimised (Raissi, Perdikaris and Karniadakis, 2019, Physics-informed neural networks: A deep learning framework for
solving forward and inverse problems involving nonlinear partial differential equations, from which Burgers' equation
and that of Allen and Cahn are taken, with their data). What is reported is the distance from the solution, relative and
in \(L^2\), on points that are not those of the training.

| | equation | conditions | terms |
|---|---|---|---|
| `poisson` | \(-\Delta u = 2 \pi^2 \sin \pi x \sin \pi y\) | a term | 784 points, 120 on the boundary |
| `heat` | \(u_t = u_{xx} / 4\) | a term | 784 points, 120 at \(t = 0\) and \(x = 0, 1\) |
| `burgers` | \(u_t + u u_x = (0.01 / \pi) u_{xx}\) | built in | 2560 points |
| `allen_cahn` | \(u_t = 10^{-4} u_{xx} + 5 u - 5 u^3\) | built in | 3000 points |

Where conditions are built in, \(u_\theta\) meets them for all parameters: \(-\sin \pi x + t (1 - x^2) n_\theta\) for
Burgers' equation, and initial values \(+\ t\, n_\theta(\cos \pi x, t)\) for that of Allen and Cahn, whose data are even
and periodic.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

import odeopt


@dataclass(frozen=True)
class Pinn:
    """A partial differential equation and a network for it.

    **Attributes:** `name`; `make_model`: `make_model(seed, dtype)`, a network `u(x, t)` of scalars; `objective`:
    `objective(dtype)`, a sum of squares; `reference`: a function that returns x, t and u on a grid.
    """

    name: str
    make_model: Callable[[int, Any], "Network"]
    objective: Callable[[Any], Any]
    reference: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]

    def error(self, model: "Network") -> float:
        """Of a network, relative and in the L2 norm."""
        x, t, u = self.reference()
        dtype = model.mlp.layers[0].weight.dtype
        found = np.asarray(values(model, jnp.asarray(x, dtype), jnp.asarray(t, dtype)), np.float64)
        return float(np.linalg.norm(found - u) / np.linalg.norm(u))


class Network(eqx.Module):
    """A multilayer perceptron between what is known of its inputs and what is known of its outputs."""

    mlp: eqx.nn.MLP
    features: Callable = eqx.field(static=True)
    ansatz: Callable = eqx.field(static=True)

    def __call__(self, x, t):
        return self.ansatz(x, t, self.mlp(self.features(x, t)))


def _network(inputs: int, width: int, depth: int, features, ansatz):
    def make_model(seed: int, dtype) -> Network:
        mlp = eqx.nn.MLP(inputs, "scalar", width, depth, jnp.tanh, key=jax.random.key(seed), dtype=dtype)
        return Network(mlp, features, ansatz)

    return make_model


def _plain(x, t, output):
    return output


def _unit_square(x, t):
    """Both coordinates in [-1, 1], where tanh is neither linear nor flat."""
    return jnp.stack([2 * x - 1, 2 * t - 1])


def _first(f, x):
    return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def _taylor(f, x):
    """f, f' and f'' of one scalar, forward over forward: a reverse pass through it is that of a wider network."""
    one = jnp.ones_like(x)
    (value, first), (_, second) = jax.jvp(lambda x: jax.jvp(f, (x,), (one,)), (x,), (one,))
    return value, first, second


def _mean_square(residual, columns, dtype, weight=1.0):
    samples = tuple(jnp.asarray(np.ravel(column), dtype) for column in columns)
    return odeopt.LeastSquares(residual, samples, per_sample=True, reduction="mean", weight=weight)


@eqx.filter_jit
def values(model: "Network", x, t):
    """Of a network on a grid, x and t of shape (m, n)."""
    return jax.vmap(jax.vmap(model))(x, t)


def _centres(n: int):
    return (np.arange(n) + 0.5) / n


def _scattered(n: int, density):
    """(n,) and (n,): x in [-1, 1] of a density, t in (0, 1) of a uniform one, by Halton's sequence."""
    first, t = qmc.Halton(2, scramble=False).random(n + 1)[1:].T
    grid = np.linspace(-1, 1, 40_001)
    middle = density((grid[1:] + grid[:-1]) / 2)
    distribution = np.concatenate([[0.0], np.cumsum(middle)]) / np.sum(middle)
    return np.interp(first, distribution, grid), t


def _peak(distance, width: float):
    """A density around 0 whose points keep a distance in proportion to theirs from it, but for `width`; integral 1."""
    return 1 / (2 * np.arcsinh(1 / width) * np.sqrt(distance**2 + width**2))


# Poisson's equation. Weight: a residual has two derivatives, which are of the size of pi^2 times an error, so that
# without it the conditions are what is met last.
SIDE = 28
WEIGHT = 100.0


def _poisson_residual(u, sample):
    x, y, source = sample
    return _taylor(lambda x: u(x, y), x)[2] + _taylor(lambda y: u(x, y), y)[2] + source


def _condition_residual(u, sample):
    x, t, value = sample
    return u(x, t) - value


def _poisson_objective(dtype):
    x, y = np.meshgrid(_centres(SIDE), _centres(SIDE))
    side, end = _centres(30), np.ones(30)
    boundary = np.concatenate([side, side, 0 * end, end]), np.concatenate([0 * end, end, side, side]), np.zeros(120)
    source = 2 * np.pi**2 * np.sin(np.pi * x) * np.sin(np.pi * y)
    interior = _mean_square(_poisson_residual, (x, y, source), dtype)
    return interior + _mean_square(_condition_residual, boundary, dtype, WEIGHT)


def _poisson_reference():
    x, y = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    return x, y, np.sin(np.pi * x) * np.sin(np.pi * y)


# The heat equation.


def _heat_residual(u, sample):
    x, t = sample
    return _first(lambda t: u(x, t), t) - _taylor(lambda x: u(x, t), x)[2] / 4


def _heat_objective(dtype):
    interior = np.meshgrid(_centres(SIDE), _centres(SIDE))
    side, end, none = _centres(40), np.ones(40), np.zeros(40)
    conditions = (
        np.concatenate([side, none, end]),
        np.concatenate([none, side, side]),
        np.concatenate([np.sin(np.pi * side), none, none]),
    )
    return _mean_square(_heat_residual, interior, dtype) + _mean_square(_condition_residual, conditions, dtype, WEIGHT)


def _heat_reference():
    x, t = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    return x, t, np.exp(-(np.pi**2) * t / 4) * np.sin(np.pi * x)


# Burgers' equation.
VISCOSITY = 0.01 / np.pi


def _burgers_features(x, t):
    return jnp.stack([x, 2 * t - 1])


def _burgers_ansatz(x, t, output):
    return -jnp.sin(jnp.pi * x) + t * (1 - x * x) * output


def _burgers_residual(u, sample):
    x, t = sample
    value, u_x, u_xx = _taylor(lambda x: u(x, t), x)
    return _first(lambda t: u(x, t), t) + value * u_x - VISCOSITY * u_xx


def _burgers_objective(dtype):
    # The shock at x = 0 is about 4 VISCOSITY = 0.013 wide.
    points = _scattered(2560, lambda x: 0.3 / 2 + 0.7 * _peak(x, 0.02))
    return _mean_square(_burgers_residual, points, dtype)


def burgers_solution(x, t, nodes: int = 150):
    r"""Burgers' equation from \(-\sin \pi x\), by the substitution of Cole and Hopf.

    \[ u = - \frac{\int \sin(\pi y)\, \phi(y)\, e^{-z^2} dz}{\int \phi(y)\, e^{-z^2} dz}, \qquad
       y = x - \sqrt{4 \nu t}\, z, \qquad \phi(y) = e^{-\cos(\pi y) / 2 \pi \nu}, \]

    with the quadrature of Gauss and Hermite. Source: Cole (1951), On a quasi-linear parabolic equation occurring in
    aerodynamics; Hopf (1950), The partial differential equation u_t + u u_x = mu u_xx.
    """
    z, weight = np.polynomial.hermite.hermgauss(nodes)
    y = np.asarray(x)[..., None] - np.sqrt(4 * VISCOSITY * np.asarray(t))[..., None] * z
    exponent = -np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
    # Exponents of up to 50: relative to the largest, nothing overflows.
    phi = weight * np.exp(exponent - np.max(exponent, axis=-1, keepdims=True))
    return -np.sum(phi * np.sin(np.pi * y), axis=-1) / np.sum(phi, axis=-1)


@cache
def _burgers_reference():
    x, t = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(0, 1, 101))
    return x, t, burgers_solution(x, t)


# The equation of Allen and Cahn.
DIFFUSION = 1e-4


def _even_features(x, t):
    """All that an even function of period 2 may depend on."""
    return jnp.stack([jnp.cos(jnp.pi * x), 2 * t - 1])


def _allen_cahn_ansatz(x, t, output):
    return _initial_values(x, t) + t * output


def _initial_values(x, t):
    r"""\(x^2 \cos \pi x\), whose corner at \(x = \pm 1\) diffuses.

    As a periodic function it is \(-1 + 2 |s| + O(s^2)\) at a distance \(s\) from there, a corner that the solution
    loses at once and that an ansatz of these values and a smooth network keeps for ever (an error of 4e-4). To first
    order around \(u = -1\) the equation is \(w_t = d\, w_{xx} - 10 w\), and from \(|s|\)

    \[ w = e^{-10 t} \big( s \operatorname{erf}(s / \ell) + \ell\, e^{-(s / \ell)^2} / \sqrt \pi \big), \qquad
       \ell = \sqrt{4 d t}, \]

    which takes the place of \(|s|\). The distance is \(s = (2 / \pi) \cos(\pi x / 2)\), which is smooth elsewhere.
    """
    s, width = 2 / jnp.pi * jnp.cos(jnp.pi * x / 2), jnp.sqrt(4 * DIFFUSION * t)
    rounded = s * jax.scipy.special.erf(s / width) + width * jnp.exp(-((s / width) ** 2)) / math.sqrt(math.pi)
    return x * x * jnp.cos(jnp.pi * x) + 2 * (jnp.exp(-10 * t) * rounded - s)


def _allen_cahn_residual(u, sample):
    x, t = sample
    value, _, u_xx = _taylor(lambda x: u(x, t), x)
    residual = _first(lambda t: u(x, t), t) - DIFFUSION * u_xx - 5 * value + 5 * value**3
    # An error near u = 0 grows like exp(5 t): early residuals have to be small. Without this the equation is met to a
    # mean square of 2e-10 by functions that are wrong by 8 %.
    return jnp.exp(-3 * t) * residual


def _allen_cahn_objective(dtype):
    # Denser at the two fronts near |x| = 1/2.
    points = _scattered(3000, lambda x: 0.6 / 2 + 0.4 * _peak(np.abs(x) - 0.5, 0.02) / 2)
    return _mean_square(_allen_cahn_residual, points, dtype)


def allen_cahn_coefficients(modes: int = 1024, steps: int = 1000, times: int = 100):
    r"""The solution as cosine series: row \(i\) holds \(c_0, \dots, c_K\) at \(t = i\) / `times`.

    \(u = c_0 + 2 \sum_k c_k \cos k \pi x\), by Fourier and Galerkin, with the coefficients of the initial values in
    closed form (of interpolated ones the corner is wrong by 8e-5) and without aliasing, and by ETDRK4 in time. Source:
    Kassam and Trefethen (2005), Fourth-order time-stepping for stiff PDEs.
    """
    k, points = np.arange(modes + 1), 4 * modes

    def reaction(c):
        u = np.fft.irfft(c, points, norm="forward")
        return np.fft.rfft(5 * u - 5 * u**3, norm="forward")[: modes + 1].real

    def moment(m):
        """The integral of x^2 cos(m pi x) over [0, 1]."""
        return np.where(m == 0, 1 / 3, 2 * (-1.0) ** m / (np.pi * np.where(m == 0, 1, m)) ** 2)

    linear, h = -DIFFUSION * (np.pi * k) ** 2, 1 / steps
    # Means over a circle around each eigenvalue: the formulas themselves cancel near 0.
    z = h * linear[:, None] + np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)
    whole, half = np.exp(h * linear), np.exp(h * linear / 2)
    q = h * np.mean((np.exp(z / 2) - 1) / z, axis=1).real
    f1 = h * np.mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3, axis=1).real
    f2 = h * np.mean((2 + z + np.exp(z) * (z - 2)) / z**3, axis=1).real
    f3 = h * np.mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3, axis=1).real
    c = (moment(k + 1) + moment(k - 1)) / 2
    rows = [c]
    for step in range(1, steps + 1):
        r = reaction(c)
        a = half * c + q * r
        r_a = reaction(a)
        r_b = reaction(half * c + q * r_a)
        r_c = reaction(half * a + q * (2 * r_b - r))
        c = whole * c + f1 * r + 2 * f2 * (r_a + r_b) + f3 * r_c
        if step % (steps // times) == 0:
            rows.append(c)
    return np.array(rows)


@cache
def _allen_cahn_reference():
    coefficients = allen_cahn_coefficients()
    u = np.fft.irfft(coefficients, 4096, norm="forward")[:, ::8]  # at x = 0, 1/256, ..., 255/256 and from -1 on
    x, t = np.meshgrid((np.arange(512) / 256 + 1) % 2 - 1, np.linspace(0, 1, len(u)))
    return x[1:], t[1:], u[1:]  # at t = 0 the series has not converged, and the ansatz is exact


PINNS = {
    pinn.name: pinn
    for pinn in (
        Pinn("poisson", _network(2, 32, 1, _unit_square, _plain), _poisson_objective, _poisson_reference),
        Pinn("heat", _network(2, 64, 1, _unit_square, _plain), _heat_objective, _heat_reference),
        Pinn(
            "burgers",
            _network(2, 20, 3, _burgers_features, _burgers_ansatz),
            _burgers_objective,
            _burgers_reference,
        ),
        Pinn(
            "allen_cahn",
            _network(2, 20, 3, _even_features, _allen_cahn_ansatz),
            _allen_cahn_objective,
            _allen_cahn_reference,
        ),
    )
}
