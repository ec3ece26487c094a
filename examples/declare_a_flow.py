"""Declare an optimizer of one's own in ten lines: its equation and its energy. The library does the rest.

Here the friction grows with the speed, as for a body in air (a ball that never overshoots by much, and still glides):

    x' = v,    v' = -(a + b |v|) v - grad f(x),    V = f(x) + |v|^2 / 2,    V' = -(a + b |v|) |v|^2 <= 0.

Run it with `python examples/declare_a_flow.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import odeopt

# In float32 the rounding of Rosenbrock's function hides the last steps of the descent.
jax.config.update("jax_enable_x64", True)


class AirFriction(odeopt.AbstractFlow):
    a: float = 0.5
    b: float = 1.0

    def init(self, params):
        return odeopt.State(params, jax.tree.map(jnp.zeros_like, params))

    def vector_field(self, t, state, oracle):
        friction = self.a + self.b * jnp.sqrt(1e-12 + optax.tree.vdot(state.memory, state.memory))
        return odeopt.State(state.memory, jax.tree.map(lambda v, g: -friction * v - g, state.memory, oracle.gradient))

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * optax.tree.vdot(state.memory, state.memory)


def rosenbrock(x, _):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def mean_square(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def report(name: str, solution: odeopt.Solution):
    """Print how a run ended, and whether the energy fell at every step."""
    assert solution.history is not None
    history = solution.history.trimmed()
    assert history.start is not None
    energy = np.concatenate([[history.start["energy"]], history.energy])
    fell = "fell at every step" if np.all(np.diff(energy) < 0) else f"rose by up to {np.max(np.diff(energy)):.1e}"
    print(f"{name}: the energy {fell}. {solution.describe()}")


def main():
    solver = odeopt.Solver(AirFriction())

    start = jnp.array([-1.0, 1.0])
    solution = odeopt.minimise(rosenbrock, solver, start, stop=odeopt.Stop(gradient_norm=1e-6))
    report("Rosenbrock's valley", solution)
    print(f"  minimum found at {solution.value}, expected [1, 1]")

    x = jnp.linspace(-1, 1, 100)[:, None]
    y = jnp.sin(3 * x)
    model = eqx.nn.MLP(in_size=1, out_size=1, width_size=20, depth=2, activation=jnp.tanh, key=jax.random.key(0))
    model, solution = odeopt.train(model, mean_square, (x, y), solver, stop=odeopt.Stop(target_loss=1e-4))
    report("A small network", solution)


if __name__ == "__main__":
    main()
