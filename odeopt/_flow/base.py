"""What a flow is: a vector field, an energy, and what may be said about them."""

import abc
import inspect
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optax
import optimistix as optx
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import vdot
from .dissipation import automatic_dissipation

if TYPE_CHECKING:
    from .._controller.base import AbstractController
    from .._scheme.base import AbstractScheme


class State(eqx.Module):
    """The state of a flow.

    **Attributes:**

    - `position`: the parameters; always the answer that is handed to the user.
    - `memory`: velocity, moments, ... in any structure; `None` when there is none.
    """

    position: PyTree
    memory: PyTree = None


class DecayBound(NamedTuple):
    r"""What theory says of the speed of a flow: \(V' \le -k\,(V - \inf V)^s\).

    Exponential decay at the rate \(k\) for \(s = 1\), polynomial like \(t^{-1/(s-1)}\) for \(s > 1\), and finite time
    like \((t_1 - t)^{1/(1-s)}\) for \(s < 1\).

    **Attributes:** `order`: \(s\); `rate`: \(k\), or `None` where theory gives no number.
    """

    order: float
    rate: float | None = None


class Damping(NamedTuple):
    r"""What linear friction \(\gamma\) does to a momentum over a step of length \(h\).

    The solution of \(p' = -\gamma(t) p - g\) for constant \(g\) is \(p(t + h) = E\,p(t) - W g\) with

    \[ E = e^{-\int_t^{t+h} \gamma}, \qquad W = \int_t^{t+h} e^{-\int_s^{t+h} \gamma}\, ds. \]

    **Attributes:** `factor`: \(E\); `weight`: \(W\), which is \(h\) without friction.
    """

    factor: Array
    weight: Array


class AbstractFlow(eqx.Module):
    r"""An optimizer in continuous time: \(y' = F(t, y)\) with an energy \(V(t, y)\) that the flow never raises.

    A new flow writes `init`, `vector_field` and `energy`; everything else has a default. In those methods `oracle`
    gives `oracle.value`, `oracle.gradient` and `oracle.hvp(v)` of the objective at `state.position`, each evaluated
    only if it is read, and `oracle.at(point)` the same at another point.

    **Class attributes:** `certificate`: what is claimed of the energy: `"lyapunov"` (never rises, for any objective
    bounded below), `"convex_only"` or `"balance_law"` (rate known, sign not); `judged_by`: which of two points is the
    better answer: that of lower `"loss"`, or, for a flow that minimises something else than the objective alone (a
    regulariser, a constraint), that of lower `"energy"`; `continuous`: whether the vector field is, so that there are
    solutions and orders of convergence to speak of; `weighs_objective`: whether \(V = c f + \dots\) with \(c > 0\), so
    that `PerGroup` can put it together with others; `needs_residuals`: whether the objective has to be a
    `LeastSquares`; `jumps_in_place`: whether the energy does not depend on the memory, and a `jump` that leads nowhere
    (no step, no change of the gradient) leaves it as it is: it is then carried out without a copy of the memory;
    `countable`: whether the vector field takes the same number of passes over the objective everywhere.

    !!! example "Heavy ball in ten lines"

        ```python
        class MyHeavyBall(odeopt.AbstractFlow):
            friction: float = 1.0

            def init(self, params):
                return odeopt.State(params, jax.tree.map(jnp.zeros_like, params))

            def vector_field(self, t, state, oracle):
                force = jax.tree.map(lambda v, g: -self.friction * v - g, state.memory, oracle.gradient)
                return odeopt.State(state.memory, force)

            def energy(self, t, state, oracle):
                return oracle.value + 0.5 * optax.tree.vdot(state.memory, state.memory)
        ```
    """

    certificate: ClassVar[str] = "lyapunov"
    judged_by: ClassVar[str] = "loss"
    continuous: ClassVar[bool] = True
    weighs_objective: ClassVar[bool] = True
    needs_residuals: ClassVar[bool] = False
    jumps_in_place: ClassVar[bool] = False
    countable: ClassVar[bool] = True

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        for name in inspect.get_annotations(cls):
            if inspect.isfunction(getattr(AbstractFlow, name, None)):
                raise TypeError(
                    f"{cls.__name__}.{name}: a hyper-parameter cannot be called like a method of flows, and {name} is "
                    "one. Give it another name."
                )

    @abc.abstractmethod
    def init(self, params: PyTree) -> State:
        """The state at the start, from the parameters."""

    @abc.abstractmethod
    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        """The time derivative of position and memory, in the structure of `state`."""

    @abc.abstractmethod
    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        """The Lyapunov function \\(V\\), a scalar in the unit of the objective's value (or any other)."""

    def calibrate(self, state: State, oracle: Oracle) -> "AbstractFlow":
        """The flow with the scales set that its constructor left open, from what it sees at the start."""
        return self

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        r"""\(dV/dt\) along the flow, at most zero; by automatic differentiation unless overridden."""
        return automatic_dissipation(self, t, state, oracle)

    def jump(self, t: Array, before: State, after: State, oracle_before: Oracle, oracle_after: Oracle) -> PyTree:
        """The new memory after an accepted step; the loop undoes it if it would raise the energy."""
        return after.memory

    def kinetic_energy(self, t: Array, state: State) -> Array:
        """The part of the energy that the memory holds; zero by default."""
        return jnp.zeros(())

    def decay(self, t: Array, state: State) -> PyTree:
        """Rates of linear damping of the memory (a prefix of its structure, `None` for no damping).

        A memory that obeys \\(m' = -r m + \\ldots\\) is damped exactly by exponential schemes if its rate
        \\(r\\) is given here.
        """
        return None

    def minimised(self, oracle: Oracle) -> Oracle:
        """The oracle of what the flow minimises: the objective, or the objective with a regulariser on it.

        Schemes that put the force of a mechanical flow together by themselves take the gradient from here.
        """
        return oracle

    def damping(self, t: Array, step_size: Array) -> Damping | None:
        r"""The exact effect of the friction over a step, for a mechanical flow; `None` for every other.

        A flow is mechanical if its memory is the momentum \(p\) (in the structure of the parameters), and

        \[ x' = \nabla k(p), \qquad p' = -\nabla f(x) - \gamma(t)\,p, \qquad V = f(x) + k(p). \]

        Leapfrogs are made for such flows, and exponential schemes solve a friction that depends on time exactly.
        """
        return None

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree | None:
        r"""The memory with \(s^2\) times the kinetic energy, \(s\) the factor; `None` where there is no such memory.

        For energies \(V = f + K\) whose kinetic part \(K\) is homogeneous of degree 2 in a part of the memory. Schemes
        that project onto a level of the energy use it.
        """
        return None

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State | None:
        r"""The product \(A(y)\,w\) of the port form \(y' = A(y)\,\nabla V(y)\); `None` where the flow states none.

        \(\langle w, A w \rangle \le 0\) for every \(w\): the skew part of \(A\) exchanges energy and the symmetric part
        dissipates it. Discrete gradient methods need this form.
        """
        return None

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        """What goes to zero at a solution: by default the norm of the gradient."""
        return norm(oracle.gradient)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        r"""A time in which the state changes by something like its own size, in the flow's unit of time.

        Step sizes that the user leaves open are set relative to it. By default \(|x| / |x'|\) at the start (1 for
        \(|x|\) where the start is zero), and 1 where the flow starts at rest.
        """
        velocity = self.vector_field(jnp.zeros_like(oracle.value), state, oracle).position
        length = jnp.sqrt(vdot(state.position, state.position))
        speed = jnp.sqrt(vdot(velocity, velocity))
        length = jnp.where(length > 0, length, 1.0)
        return jnp.where(speed > 0, length / jnp.where(speed > 0, speed, 1.0), 1.0)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        r"""What theory says of the decay of the energy where \(|\nabla f| \ge c\,(f - \inf f)^\theta\).

        Called on the calibrated flow with \(\theta\) and \(c\); \(\theta = 1/2\) with \(c^2 = 2 \mu\) is the inequality
        of Polyak and Łojasiewicz. `None` where theory says nothing. Checked by `odeopt.decay_rate`.
        """
        return None

    def recommended(self) -> "tuple[AbstractScheme, AbstractController]":
        """The scheme and the controller that a solver takes where the user names none."""
        # Imported here, because schemes and controllers stand above flows: a flow only recommends them.
        from .._controller.lyapunov import LyapunovControl
        from .._controller.slack import BalanceControl
        from .._scheme.semi_implicit import SemiImplicitEuler

        return SemiImplicitEuler(), BalanceControl() if self.certificate == "balance_law" else LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        """The discrete optimizer that `scheme` at constant `step_size` makes of this flow; `None` where none is known.

        What is stated here is checked by `odeopt.equivalence` and `odeopt.verify`. Called on the calibrated flow.
        """
        return None

    def declares(self, method: str) -> bool:
        """Whether the flow has its own version of an optional method; a flow made of others asks those."""
        return getattr(type(self), method) is not getattr(AbstractFlow, method)
