"""Pictures of runs and of verifications.

Needs matplotlib: `pip install 'odeopt[plot]'`; imported only with `import odeopt.plot`.
"""

from ._convergence import convergence as convergence
from ._decay import decay as decay
from ._energy import energy as energy
from ._equivalence import equivalence as equivalence
from ._report import report as report
from ._run import run as run
from ._stability import edge_of_stability as edge_of_stability
from ._stability import stability as stability
from ._stability import stability_of_minimum as stability_of_minimum
from ._stability import stability_region as stability_region
from ._steps import steps as steps
from ._tolerance import tolerance_order as tolerance_order
from ._windows import windows as windows
from ._work_precision import work_precision as work_precision
