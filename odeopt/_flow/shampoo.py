r"""The flow of Shampoo with momentum.

\[ X' = -P M, \quad M' = a (G - M), \quad L' = b (G G^\top - L), \quad R' = b (G^\top G - R), \]
\[ P M = S(L)^{-1/4}\, M\, S(R)^{-1/4}, \quad S(L) = L + (\delta \operatorname{tr} L + e^2) I, \qquad
   V = f(X) + \frac{1}{2a} \operatorname{tr} (M^\top P M), \]
\[ V' = -\operatorname{tr} (M^\top P M) + \frac{1}{2a} \operatorname{tr} (M^\top P' M) \le 0
   \quad\text{if}\quad b \le 4a, \]

for any \(f\): \(L\), \(R\) and their traces fall at most like \(e^{-b t}\), so that each factor of \(P\) grows at most
like \(e^{b t/4}\), because \(S \mapsto -S^{-1/4}\) is operator monotone, and \(P' \le \tfrac b2 P \le 2a P\).

(Gupta, Koren and Singer, 2018, Shampoo: preconditioned stochastic tensor optimization; Belotto da Silva and Gazeau,
2020, A general system of differential equations to model first-order adaptive algorithms, for diagonal
preconditioners.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .discrete import averaged_shampoo
from .matrices import as_matrix, times
from .moments import AbstractMomentFlow, check_scaling_rate


class Shampoo(AbstractMomentFlow):
    r"""Momentum behind a preconditioner for the rows and one for the columns of each matrix of parameters.

    \[ X' = -S(L)^{-1/4}\, M\, S(R)^{-1/4}, \quad M' = a (G - M), \quad L' = b (G G^\top - L), \quad
       R' = b (G^\top G - R), \]
    \[ S(L) = L + (\delta \operatorname{tr} L + e^2) I, \qquad
       V = f + \frac{1}{2a} \operatorname{tr} \big( M^\top S(L)^{-1/4} M S(R)^{-1/4} \big) \]

    With averages in the place of the published sums. Every array of parameters is one matrix: arrays of more than two
    axes are folded to their first axis against all others; vectors are matrices of one column, whose left
    preconditioner has the size of the vector squared; for scalars the flow is `Adam`, but for \(\delta\). A step costs
    the eigenvectors of two symmetric matrices for each array. The memory is `(M, (L, R))`.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b\) per unit of time, \(0 \le b \le 4a\).
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.
    - `ridge`: \(\delta \ge 0\), without unit: directions in which the gradient has hardly been are scaled as if they
        had this part of the sum of all squares. It keeps the roots of matrices well conditioned.

    Unit of time: the singular values of a matrix change by at most about 1 per unit of time; time has the unit of the
    parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if a rate or `epsilon` is out of range. Source: Gupta, Koren and Singer (2018), Belotto da
    Silva and Gazeau (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Shampoo())
        solution = odeopt.minimise(lambda X, _: jnp.sum((X @ X.T - jnp.eye(2)) ** 2), solver, jnp.ones((2, 3)))
        ```
    """

    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)
    ridge: Array = eqx.field(converter=hyperparameter, default=1e-6)

    def __check_init__(self):
        ridge = self.ridge
        if concrete(ridge) and not 0 <= float(ridge) < float("inf"):
            raise ValueError(f"Shampoo(ridge={float(ridge)}): expected a finite number >= 0.")
        check_scaling_rate(self)

    def init(self, params: PyTree) -> State:
        def zeros(side):
            def leaf(x):
                matrix = as_matrix(x)
                return jnp.zeros((matrix.shape[side],) * 2, matrix.dtype)

            return jax.tree.map(leaf, params)

        return State(params, (jax.tree.map(jnp.zeros_like, params), (zeros(0), zeros(1))))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (m, (left, right)), g, b = state.memory, oracle.gradient, self.scaling_rate
        return State(
            jax.tree.map(lambda product: -product, self._preconditioned(state)),
            (
                jax.tree.map(lambda m, g: self.momentum_rate * (g - m), m, g),
                (
                    jax.tree.map(lambda L, g: b * (_rows(g) - L), left, g),
                    jax.tree.map(lambda R, g: b * (_columns(g) - R), right, g),
                ),
            ),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        (m, (left, right)), a = state.memory, self.momentum_rate

        def root(S, square):
            return jax.jvp(self._root, (S,), ((self.scaling_rate * (square - S)).astype(S.dtype),))

        def leaf(m, L, R, g):
            M = as_matrix(m)
            (rows, rows_rate), (columns, columns_rate) = root(L, _rows(g)), root(R, _columns(g))
            changing = times(rows_rate, M, columns) + times(rows, M, columns_rate)
            return jnp.sum(M * (changing / (2 * a) - times(rows, M, columns)))

        return jax.tree.reduce(jnp.add, jax.tree.map(leaf, m, left, right, oracle.gradient))

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return vdot(state.memory[0], self._preconditioned(state)) / (2 * self.momentum_rate)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        m, statistics = state.memory
        return jax.tree.map(lambda m: factor * m, m), statistics

    def optimizer(self, step_size: Array, b1: Array, b2: Array) -> optax.GradientTransformation:
        return averaged_shampoo(step_size, b1, b2, self._shift)

    def _preconditioned(self, state: State) -> PyTree:
        def leaf(m, L, R):
            return times(self._root(L), as_matrix(m), self._root(R)).reshape(m.shape)

        m, (left, right) = state.memory
        return jax.tree.map(leaf, m, left, right)

    def _root(self, matrix: Array) -> Array:
        return inverse_fourth_root(matrix, self._shift(matrix))

    def _shift(self, matrix: Array) -> Array:
        return self.ridge * jnp.trace(matrix) + self._calibrated_epsilon() ** 2


def _rows(gradient: Array) -> Array:
    return times(as_matrix(gradient), as_matrix(gradient).T)


def _columns(gradient: Array) -> Array:
    return times(as_matrix(gradient).T, as_matrix(gradient))


@jax.custom_jvp
def inverse_fourth_root(matrix: Array, shift: Array) -> Array:
    r"""\((L + s I)^{-1/4}\) of a symmetric positive semidefinite matrix, differentiable for equal eigenvalues too."""
    return _inverse_fourth_root(matrix, shift)[0]


@inverse_fourth_root.defjvp
def _inverse_fourth_root_jvp(primals, tangents):
    # Daleckii and Krein: in the eigenbasis every entry of the tangent is multiplied with a divided difference of
    # s -> s^(-1/4), which for fourth roots p and q is -1 / (p q (p + q) (p^2 + q^2)): finite where they are equal.
    rate, shift_rate = tangents
    value, root, basis = _inverse_fourth_root(*primals)
    rate = rate + shift_rate * jnp.eye(len(root), dtype=rate.dtype)
    p, q = root[:, None], root[None, :]
    inner = -times(basis.T, rate, basis) / (p * q * (p + q) * (p**2 + q**2))
    return value, times(basis, inner, basis.T)


def _inverse_fourth_root(matrix: Array, shift: Array) -> tuple[Array, Array, Array]:
    """The inverse fourth root, the fourth roots of the shifted eigenvalues, and the eigenbasis."""
    eigenvalues, basis = jnp.linalg.eigh(matrix)
    # Rounding may leave eigenvalues slightly below zero.
    root = jnp.sqrt(jnp.sqrt(jnp.maximum(eigenvalues, 0) + shift))
    return times(basis / root, basis.T), root, basis
