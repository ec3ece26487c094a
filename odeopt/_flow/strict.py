r"""Decay of energies that fall wherever the state is not an equilibrium.

\[ V = f + \tfrac q2 |m|^2, \qquad V' = -\begin{pmatrix} g \\ m \end{pmatrix}^{\!\top} \begin{pmatrix} A & B \\ B & D
   \end{pmatrix} \begin{pmatrix} g \\ m \end{pmatrix}, \qquad A D > B^2. \]

Where \(|g| \ge c\,(f - \inf f)^\theta\), \(V' \le -k\,(V - \inf V)\) for \(\theta = 1/2\), with \(k\) the smallest
eigenvalue of the matrix relative to \(\mathrm{diag}(1/c^2,\, q/2)\). For \(\theta > 1/2\) the objective's part is the
slower one, and \(V\) falls like that of gradient flow; for \(\theta < 1/2\) it is the memory's part.
"""

import math

from .base import DecayBound


def strict_decay(
    lojasiewicz_exponent: float, constant: float, gradient: float, mixed: float, memory: float, weight: float
) -> DecayBound:
    r"""The decay of a strict energy, for any objective.

    **Arguments:** `lojasiewicz_exponent`, `constant`: \(\theta\) and \(c\); `gradient`, `mixed`, `memory`: \(A\), \(B\)
    and \(D\); `weight`: \(q\).
    """
    if lojasiewicz_exponent != 0.5:
        return DecayBound(max(2 * lojasiewicz_exponent, 1.0))
    first, second = gradient * constant**2, 2 * memory / weight
    coupling = mixed * constant * math.sqrt(2 / weight)
    return DecayBound(1.0, (first + second) / 2 - math.hypot((first - second) / 2, coupling))
