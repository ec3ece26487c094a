"""Several solvers for one problem, one after the other."""

from collections.abc import Sequence as Given

import equinox as eqx
from jaxtyping import Array

from ._hyperparameter import concrete, hyperparameter
from ._solver import Solver


class Sequence(eqx.Module):
    r"""Solvers that hand a problem over to each other: say `Adam`, then `QuasiNewton`, then `LevenbergMarquardt`.

    The first one begins. Every now and then the next one is tried, from the best point so far: if it lowers the loss by
    more per unit of cost than the present one did just before, it takes over; if not, the present one goes on as if
    nothing had been tried, for twice as long until the next try. A solver that can go no further hands over to the
    next at once, and the last one, if it fails, back to one that can still go on.

    **Guarantees:** the loss at a hand-over is the lowest so far, and the answer is the best point that any solver has
    met. The trajectory of the first solver until it hands over is the one that it has alone, and tries take at most
    about `share` of the whole cost. The energy of each solver falls as it would alone; from one to the next, and after
    a try, it is another. (A solver that takes over may later turn out slower than the one before would have been: that
    cannot be known.)

    **Arguments:**

    - `solvers`: `odeopt.Solver`s, at least two, of flows that minimise the objective itself.
    - `share`: of the cost that tries may take, 0 < share < 1.

    Works wherever a solver does, but `history="states"`; `history.solver` says which one made a step. **Raises:**
    `TypeError` or `ValueError` for solvers that cannot follow each other.

    !!! example

        ```python
        solver = odeopt.Sequence([odeopt.Solver(odeopt.Adam()), odeopt.Solver(odeopt.QuasiNewton())])
        rosenbrock = lambda x, _: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        solution = odeopt.minimise(rosenbrock, solver, jnp.array([-1.2, 1.0]))
        ```
    """

    solvers: tuple[Solver, ...]
    # A method that is ten times as fast pays for its try in the first tenth of what is left.
    share: Array

    def __init__(self, solvers: Given[Solver], share: float | Array = 0.2):
        if not isinstance(solvers, Given):
            raise TypeError(f"Sequence(solvers=...): expected a list of odeopt.Solver, got {type(solvers).__name__}.")
        for index, solver in enumerate(solvers):
            if not isinstance(solver, Solver):
                raise TypeError(
                    "Sequence(solvers=...): expected odeopt.Solver, such as odeopt.Solver(odeopt.Adam()); number "
                    f"{index} is of type {type(solver).__name__}."
                )
            if solver.flow.judged_by != "loss":
                raise ValueError(
                    f"Sequence(solvers=...): {type(solver.flow).__name__} minimises something else than the loss "
                    "alone, so that it cannot be compared with other solvers. Put the regulariser into the loss."
                )
        if len(solvers) < 2:
            raise ValueError(f"Sequence(solvers=...): expected at least two solvers, got {len(solvers)}.")
        self.solvers = tuple(solvers)
        self.share = hyperparameter(share)
        if concrete(self.share) and not 0 < float(self.share) < 1:
            raise ValueError(f"Sequence(share={float(self.share)}): expected 0 < share < 1.")
