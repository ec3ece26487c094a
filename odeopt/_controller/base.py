"""What keeps or rejects a trial step and proposes the next step size."""

import abc
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array


class Verdict:
    """What a controller says of a trial: integers, for use in `jnp.where`.

    - `REJECT`: the step is not kept; a new one starts from the same point.
    - `ACCEPT`: the step is kept.
    - `UNDECIDED`: the loss does not resolve the difference that the decision needs. The loop decides from gradients,
        and tells `update`; for controllers whose `rounding` is not `None`.
    - `SEARCH_ON`: the step passes, but the controller tries another step size before it keeps one. The loop goes on
        as after `REJECT`.
    """

    REJECT = 0
    ACCEPT = 1
    UNDECIDED = 2
    SEARCH_ON = 3


class Attempt(eqx.Module):
    r"""What a controller may know of a trial: scalars only.

    **Attributes:**

    - `step_size`: the length of the step.
    - `change`: the change of the energy.
    - `rate`: the dissipation that the test refers to (see `AbstractController.rate`).
    - `rounding`: the level below which `change` is rounding noise; 0 where the test is off.
    - `finite`: whether the loss and the energy at the trial are finite numbers.
    - `error`: the scheme's estimate of the local error in units of the controller's `tolerance`; `None` where the
        controller has none.
    - `shadow`: the change of the shadow energy \(V - \tfrac h2 \langle \nabla f, x' \rangle\), both ends with the
        same \(h\); `None` where the controller does not ask for it.
    - `order`, `error_order`: of the scheme, and the power of \(h\) that its error estimate is proportional to; static.
    """

    step_size: Array
    change: Array
    rate: Array
    rounding: Array
    finite: Array
    error: Array | None = None
    shadow: Array | None = None
    order: int = eqx.field(static=True, default=1)
    error_order: int = eqx.field(static=True, default=2)


def decided(attempt: Attempt, bound: Array, rounding: Array | None) -> Array:
    """One of `Verdict`: whether the energy changes by at most `bound`, as far as its rounding lets that be seen."""
    excess = attempt.change - bound
    verdict = jnp.where(excess <= 0, Verdict.ACCEPT, Verdict.REJECT)
    if rounding is not None:
        verdict = jnp.where(jnp.abs(excess) <= attempt.rounding, Verdict.UNDECIDED, verdict)
    # `excess` is NaN or infinite where the energy is.
    return jnp.where(attempt.finite, verdict, Verdict.REJECT).astype(jnp.int32)


class Tolerance(eqx.Module):
    r"""What an estimate \(e\) of the local error is measured by, entry by entry.

    \[ \max_{\text{blocks}} \operatorname{rms} \frac{e_i}{\text{absolute} + \text{relative} \max(|y_i|, |y_i^+|)
       + \text{step} \operatorname{rms}(y^+ - y)} \]

    A block is one array of the position or of the memory. The third term compares the error with the step itself,
    which has no unit: for explicit Euler on gradient flow 1 is the limit of stability on a quadratic, and 1/2 the step
    \(1/L\).

    **Attributes:** `relative`, `absolute` (in units of the state), `step`.
    """

    relative: Array
    absolute: Array
    step: Array


class AbstractController(eqx.Module):
    """Judges trials and chooses step sizes from scalars; it knows nothing of parameters.

    All methods run inside the compiled loop: they compute with `jnp` and decide with `jnp.where`.

    **Attributes:**

    - `initial_step_size`: the first step size, in the flow's unit of time; `None`: a hundredth of the flow's
        `unit_of_time`.
    - `rate`: which dissipation the test refers to: at the `"start"` of the step, at the `"trial"`, or its stage
        `"quadrature"`.
    - `rounding`: multiples of the rounding unit of the loss below which gradients decide; `None` switches it off.

    **Class attributes:** `monotone`: whether an accepted step never raises the energy beyond rounding; `needs_shadow`:
    whether `Attempt.shadow` is to be computed (one gradient for every trial, rejected ones too).

    !!! example "A controller of one's own"

        Whatever lowers the energy is kept; steps are doubled and halved.

        ```python
        from typing import ClassVar

        import jax.numpy as jnp
        import odeopt


        class AnyDecrease(odeopt.AbstractController):
            initial_step_size: float | None = None
            rate: ClassVar[str] = "start"
            rounding: ClassVar[None] = None
            monotone: ClassVar[bool] = True

            def init(self, step_size):
                return step_size

            def step_size(self, state):
                return state

            def bound(self, state, step_size, rate):
                return jnp.zeros_like(step_size)

            def judge(self, state, attempt):
                passes = attempt.finite & (attempt.change <= self.bound(state, attempt.step_size, attempt.rate))
                return jnp.where(passes, odeopt.Verdict.ACCEPT, odeopt.Verdict.REJECT)

            def update(self, state, attempt, verdict, accepted):
                return jnp.where(accepted, 2 * state, state / 2)

            def exhausted(self, state):
                return state < 1e-20


        solver = odeopt.Solver(odeopt.HeavyBall(), controller=AnyDecrease())
        solution = odeopt.minimise(lambda y, _: jnp.sum(y**2), solver, jnp.ones(2))
        ```
    """

    if TYPE_CHECKING:
        # Type checkers take abstract variables for fields that every constructor asks for.
        @property
        def initial_step_size(self) -> Array | None: ...
        @property
        def rate(self) -> str: ...
        @property
        def rounding(self) -> Array | None: ...
    else:
        initial_step_size: eqx.AbstractVar[Array | None]
        rate: eqx.AbstractVar[str]
        rounding: eqx.AbstractVar[Array | None]
    monotone: eqx.AbstractClassVar[bool]
    needs_shadow: ClassVar[bool] = False

    @property
    def rejects_early(self) -> bool:
        """Whether a rejected trial need not be evaluated to the end (default: no).

        That is so if `judge` rejects every change of the energy above some bound, whatever the rest of the attempt is,
        and `update` does not ask by how much a rejected trial was above.
        """
        return False

    @property
    def tolerance(self) -> Tolerance | None:
        """What the local error is measured by; `None` (default) where the controller does not look at it."""
        return None

    @abc.abstractmethod
    def init(self, step_size: Array) -> Any:
        """The controller's state before the first trial, from the first step size."""

    @abc.abstractmethod
    def step_size(self, state: Any) -> Array:
        """The length of the next trial."""

    @abc.abstractmethod
    def bound(self, state: Any, step_size: Array, rate: Array) -> Array:
        """The largest change of the energy with which a step is kept, known before the trial is evaluated."""

    @abc.abstractmethod
    def judge(self, state: Any, attempt: Attempt) -> Array:
        """One of `Verdict`, as an integer array."""

    @abc.abstractmethod
    def update(self, state: Any, attempt: Attempt, verdict: Array, accepted: Array) -> Any:
        """The state before the next trial; `accepted` is the final word on an undecided trial."""

    @abc.abstractmethod
    def exhausted(self, state: Any) -> Array:
        """Whether no step size is left to try."""
