"""Unconstrained problems of CUTEst: the half that methods may be developed on.

Of all problems of at most 200 variables in sif2jax, sorted by the name of their class, every other one; the rest is
kept for validation and must not be run, read or tuned on. (Gould, Orban, Toint, 2015, CUTEst: a constrained and
unconstrained testing environment with safe threads for mathematical optimization.)
"""

import jax
import sif2jax

MOST_VARIABLES = 200


def development() -> dict:
    """Name and problem: `problem.objective(y, problem.args)` from `problem.y0`."""
    small = {type(p).__name__: p for p in sif2jax.unconstrained_minimisation_problems if _size(p) <= MOST_VARIABLES}
    return {name: small[name] for name in sorted(small)[::2]}


def _size(problem) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(problem.y0))
