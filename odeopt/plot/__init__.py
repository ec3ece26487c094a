"""Pictures of runs. Needs matplotlib: `pip install 'odeopt[plot]'`; imported only with `import odeopt.plot`."""

from ._run import run as run
