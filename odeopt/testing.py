"""For the test files of people who declare flows: three lines.

```python
import odeopt.testing
from my_flow import MyFlow

test_my_flow = odeopt.testing.verifies(MyFlow())
```
"""

from ._verify.verify import verify


def verifies(flow, problem: tuple | None = None, **options):
    """A test function for pytest that verifies a flow.

    **Arguments:** as `odeopt.verify`.

    **Returns:** a function to be bound to a name that starts with `test`. The verification runs once, when the test
    does, and not when the file is read.

    !!! example

        ```python
        test_heavy_ball = odeopt.testing.verifies(odeopt.HeavyBall(friction=0.5))
        ```
    """

    def test():
        verify(flow, problem, **options).raise_on_failure()

    test.__doc__ = f"{type(flow).__name__} is what it declares."
    return test
