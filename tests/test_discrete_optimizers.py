"""At a constant step a flow is the discrete optimizer that it names, written out here by hand or taken from optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import named

import odeopt

A, B, E = 1.3, 2.1, 0.2
H, STEPS = 0.05, 200
# Two programs for one formula differ by some units of rounding (2.2e-16) a step; all runs here contract.
AGREEMENT = 1e-12

MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
START = np.array([1.0, -2.0, 0.7])
# So far that no run arrives, where the sign of a rounded number would decide.
FAR = np.array([[15.0, -9.0, 3.0], [6.0, 12.0, -18.0]])
NEAR = np.array([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]])


def bowl(y, args):
    """Convex, not quadratic."""
    return 0.5 * y @ MATRIX @ y + 0.1 * jnp.sum(y**4)


def matrix_bowl(X, args):
    return 0.5 * jnp.sum(X**2) + jnp.sum((X @ X.T) ** 2)


def mixture(X, args):
    """Of matrices, convex, its minimum far away."""
    return jnp.sum(jnp.sqrt(1 + (X - FAR) ** 2))


GRADIENTS = {
    bowl: lambda y: MATRIX @ y + 0.4 * y**3,
    matrix_bowl: lambda X: X + 4 * X @ X.T @ X,
    mixture: lambda X: (X - FAR) / np.sqrt(1 + (X - FAR) ** 2),
}


def path(flow, scheme, fn, start):
    """The positions after each step of a flow at the constant step size."""
    solver = odeopt.Solver(flow, scheme, odeopt.ConstantStep(H))
    solution = odeopt.minimise(
        fn, solver, jnp.asarray(start), stop=odeopt.Stop(), max_steps=STEPS, history="states", throw=False
    )
    assert int(solution.stats["accepted"]) == STEPS
    return np.asarray(solution.history.position)


def path_of(transformation, fn, start):
    """The same of an optimizer in the form of optax."""

    def step(carry, _):
        x, state = carry
        updates, state = transformation.update(jax.grad(fn)(x, None), state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(start)
    return np.asarray(jax.lax.scan(step, (start, transformation.init(start)), length=STEPS)[1])


def by_hand(update, fn, start):
    """`update(x, g, memory)` gives the new `x` and memory; the memory starts as `None`."""
    x, memory, rows = np.array(start), None, []
    for _ in range(STEPS):
        x, memory = update(x, GRADIENTS[fn](x), memory)
        rows.append(x)
    return np.array(rows)


def moments(memory, g, b1, b2):
    m, v = memory or (np.zeros(3), np.zeros(3))
    return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2


# Each: with what a step keeps of both averages, the update.


def adam(b1, b2):
    def update(x, g, memory):
        m, v = moments(memory, g, b1, b2)
        return x - H * m / np.sqrt(v + E**2), (m, v)

    return update


def nadam(b1, b2):
    """NAdam without bias correction, at learning rate h / beta_1 where c = (1 - beta_1) / beta_1."""

    def update(x, g, memory):
        m, v = moments(memory, g, b1, b2)
        return x - H / b1 * (b1 * m + (1 - b1) * g) / np.sqrt(v + E**2), (m, v)

    return update


def adagrad(b1, b2):
    def update(x, g, memory):
        m, v = memory or (np.zeros(3), np.zeros(3))
        m, v = b1 * m + (1 - b1) * g, v + 3.0 * H * g**2
        return x - H * m / np.sqrt(v + E**2), (m, v)

    return update


def amsgrad(b1, b2):
    def update(x, g, memory):
        (m, v), old = moments(memory, g, b1, b2), memory[1] if memory else 0.0
        v = np.maximum(v, old)
        return x - H * m / np.sqrt(v + E**2), (m, v)

    return update


def padam(b1, b2):
    def update(x, g, memory):
        m, v = moments(memory, g, b1, b2)
        return x - H * 0.7**-0.5 * m / (v + E**2) ** 0.25, (m, v)

    return update


def with_penalty(b1, b2):
    def update(x, g, memory):
        (m, _), (_, v) = moments(memory, g + 0.4 * x, b1, b2), moments(memory, g, b1, b2)
        return x - H * m / np.sqrt(v + E**2), (m, v)

    return update


def adamw(b1, b2):
    def update(x, g, memory):
        m, v = moments(memory, g, b1, b2)
        return x - H * (m / np.sqrt(v + E**2) + 0.4 * x), (m, v)

    return update


def bias_corrected(b1, b2):
    def update(x, g, memory):
        m, v, steps = memory or (np.zeros(3), np.zeros(3), 0)
        (m, v), steps = moments((m, v), g, b1, b2), steps + 1
        return x - H * (m / (1 - b1**steps)) / np.sqrt(v / (1 - b2**steps) + E**2), (m, v, steps)

    return update


def shampoo(b1, b2):
    def update(X, G, memory):
        M, L, R = memory or (np.zeros((2, 3)), np.zeros((2, 2)), np.zeros((3, 3)))
        M, L, R = b1 * M + (1 - b1) * G, b2 * L + (1 - b2) * G @ G.T, b2 * R + (1 - b2) * G.T @ G
        (p, U), (q, W) = np.linalg.eigh(L + E**2 * np.eye(2)), np.linalg.eigh(R + E**2 * np.eye(3))
        return X - H * (U * p**-0.25) @ U.T @ M @ (W * q**-0.25) @ W.T, (M, L, R)

    return update


def polar(M):
    U, _, Vt = np.linalg.svd(M, full_matrices=False)
    return U @ Vt


def muon(beta, new_momentum=True):
    def made(b1, b2):
        def update(X, G, memory):
            old = np.zeros((2, 3)) if memory is None else memory
            new = b1 * old + (1 - b1) * G  # the average of the gradient, with the gradient's own sign
            M = new if new_momentum else old
            return X - H * polar((1 - beta) * M + beta * G) - H * 0.05 * X, new

        return update

    return made


KEPT = np.exp(-A * H)
EXPONENTIAL, SEMI_IMPLICIT = odeopt.ExponentialEuler, odeopt.SemiImplicitEuler
BOTH = (EXPONENTIAL, SEMI_IMPLICIT)

# A flow, the schemes under which it is an optimizer, that optimizer, and a problem.
DISCRETE = {
    "Adam": (lambda b1: odeopt.Adam(A, B, E), BOTH, adam, bowl, START),
    "Adam with bias correction": (
        lambda b1: odeopt.BiasCorrectedAdam(A, B, E),
        (EXPONENTIAL,),
        bias_corrected,
        bowl,
        START,
    ),
    "NAdam": (lambda b1: odeopt.NAdam(A, B, (1 - b1) / b1, E), BOTH, nadam, bowl, START),
    "AdaGrad with momentum": (lambda b1: odeopt.AdaGradMomentum(A, 3.0, E), BOTH, adagrad, bowl, START),
    "AMSGrad": (lambda b1: odeopt.AMSGrad(A, B, E), BOTH, amsgrad, bowl, START),
    "Padam": (lambda b1: odeopt.Padam(0.25, A, B, E, scale=0.7), BOTH, padam, bowl, START),
    "Adam with an L2 penalty": (lambda b1: odeopt.AdamL2(0.4, A, B, E), BOTH, with_penalty, bowl, START),
    "AdamW": (lambda b1: odeopt.AdamW(0.4, A, B, E), BOTH, adamw, bowl, START),
    "Shampoo": (lambda b1: odeopt.Shampoo(A, B, E, ridge=0.0), BOTH, shampoo, matrix_bowl, NEAR),
    "Muon, Nesterov's momentum": (
        lambda b1: odeopt.Muon(A, 1 - b1, 0.05, smoothing=0),
        (EXPONENTIAL,),
        muon(1 - KEPT),
        mixture,
        NEAR,
    ),
    "Muon, new momentum": (lambda b1: odeopt.Muon(A, 0.0, 0.05, smoothing=0), BOTH, muon(0.0), mixture, NEAR),
    "Muon, old momentum": (
        lambda b1: odeopt.Muon(A, 0.1, 0.05, smoothing=0),
        (odeopt.Euler,),
        muon(0.1, new_momentum=False),
        mixture,
        NEAR,
    ),
}
# The second scheme of a flow differs by what a step keeps of the averages only.
CASES = [
    pytest.param(name, scheme, marks=pytest.mark.slow if scheme is SEMI_IMPLICIT else ())
    for name, (_, schemes, *_) in DISCRETE.items()
    for scheme in schemes
]


def case(name, scheme):
    make, _, optimizer, fn, start = DISCRETE[name]
    b1, b2 = (KEPT, np.exp(-B * H)) if scheme is EXPONENTIAL else (1 - A * H, 1 - B * H)
    return make(b1), by_hand(optimizer(b1, b2), fn, start), fn, start


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_a_flow_is_the_discrete_optimizer(name, scheme):
    flow, rows, fn, start = case(name, scheme)
    np.testing.assert_allclose(path(flow, scheme(), fn, start), rows, rtol=AGREEMENT, atol=AGREEMENT)


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_a_flow_names_the_discrete_optimizer(name, scheme):
    flow, rows, fn, start = case(name, scheme)
    stated = flow.discrete_equivalent(scheme(), jnp.asarray(H))
    np.testing.assert_allclose(path_of(stated, fn, start), rows, rtol=AGREEMENT, atol=AGREEMENT)


@pytest.mark.parametrize("name", DISCRETE)
def test_under_a_scheme_of_several_stages_a_flow_names_none(name):
    assert DISCRETE[name][0](KEPT).discrete_equivalent(odeopt.Heun(), jnp.asarray(H)) is None


@pytest.mark.slow
def test_bias_corrected_adam_is_adam_of_optax_through_the_training_of_a_network():
    optimizer = optax.adam(H, KEPT, np.exp(-B * H), eps=0.0, eps_root=E**2)
    result = odeopt.equivalence(odeopt.BiasCorrectedAdam(A, B, E), odeopt.ExponentialEuler(), optimizer, step_size=H)
    assert result.passed, str(result)
    assert result.largest <= AGREEMENT
    assert result.loss[-1] < 0.5 * result.loss[0]


@pytest.mark.parametrize("decay", named([None, 1e-3, 0.3], {None, 1e-3}))
def test_lion_with_the_sign_is_lion_of_optax(decay):
    flow = odeopt.Lion((1 - 0.99) / H, 0.1, decay, smoothing=0)
    lion = optax.lion(H, 0.9, 0.99, weight_decay=decay or 0.0)
    result = odeopt.equivalence(flow, odeopt.Euler(), lion, (bowl, jnp.asarray(START)), step_size=H)
    assert result.passed, str(result)
    assert result.largest <= AGREEMENT
    assert odeopt.equivalence(flow, odeopt.Euler(), step_size=H).passed


def test_the_smooth_sign_is_measured_as_a_difference_that_falls_with_its_width():
    lion, differences = optax.lion(0.02, 0.9, 0.99, weight_decay=1e-3), []
    # A run of few steps: later the sign jumps to and fro, and any two runs differ by its jumps.
    for width in (1e-1, 1e-2, 1e-3):
        flow = odeopt.Lion((1 - 0.99) / 0.02, 0.1, 1e-3, width)
        result = odeopt.equivalence(flow, odeopt.Euler(), lion, (bowl, jnp.asarray(START)), step_size=0.02, steps=20)
        assert not result.passed
        differences.append(result.largest)
    # 1 - 1 / sqrt(1 + (d/m)^2) is of second order in d.
    assert differences[0] > 30 * differences[1] > 900 * differences[2] > 0
