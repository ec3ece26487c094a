"""Optimizers as dissipative dynamical systems, with step control that preserves their dissipation."""

from ._controller import AbstractController as AbstractController
from ._controller import Attempt as Attempt
from ._controller import ConstantStep as ConstantStep
from ._controller import LyapunovControl as LyapunovControl
from ._controller import Verdict as Verdict
from ._flow import AbstractFlow as AbstractFlow
from ._flow import Adam as Adam
from ._flow import DecayBound as DecayBound
from ._flow import GradientFlow as GradientFlow
from ._flow import HeavyBall as HeavyBall
from ._flow import State as State
from ._minimise import minimise as minimise
from ._objective import AbstractObjective as AbstractObjective
from ._objective import Objective as Objective
from ._objective import Oracle as Oracle
from ._predictor import Predictor as Predictor
from ._results import RESULTS as RESULTS
from ._run_folder import load as load
from ._scheme import RK4 as RK4
from ._scheme import AbstractScheme as AbstractScheme
from ._scheme import Bosh3 as Bosh3
from ._scheme import Dopri5 as Dopri5
from ._scheme import Euler as Euler
from ._scheme import ExplicitRK as ExplicitRK
from ._scheme import ExponentialEuler as ExponentialEuler
from ._scheme import Heun as Heun
from ._scheme import Midpoint as Midpoint
from ._scheme import Ralston as Ralston
from ._scheme import SemiImplicitEuler as SemiImplicitEuler
from ._scheme import Trial as Trial
from ._scheme import Tsit5 as Tsit5
from ._solution import History as History
from ._solution import Solution as Solution
from ._solver import Solver as Solver
from ._stop import Stop as Stop
from ._train import Progress as Progress
from ._train import train as train
from ._verify.basin import StabilityOfMinimum as StabilityOfMinimum
from ._verify.basin import stability_of_minimum as stability_of_minimum
from ._verify.convergence import ConvergenceOrder as ConvergenceOrder
from ._verify.convergence import convergence_order as convergence_order
from ._verify.decay import DecayRate as DecayRate
from ._verify.decay import decay_rate as decay_rate
from ._verify.edge import EdgeOfStability as EdgeOfStability
from ._verify.edge import edge_of_stability as edge_of_stability
from ._verify.energy import EnergyAudit as EnergyAudit
from ._verify.energy import audit_energy as audit_energy
from ._verify.equivalence import Equivalence as Equivalence
from ._verify.equivalence import equivalence as equivalence
from ._verify.reference import InaccurateReferenceError as InaccurateReferenceError
from ._verify.reference import Reference as Reference
from ._verify.reference import reference_solution as reference_solution
from ._verify.region import StabilityRegion as StabilityRegion
from ._verify.region import stability_region as stability_region
from ._verify.report import Report as Report
from ._verify.stability import Stability as Stability
from ._verify.stability import stability as stability
from ._verify.steps import StepAudit as StepAudit
from ._verify.steps import audit_steps as audit_steps
from ._verify.verify import verify as verify


def __getattr__(name: str):
    # matplotlib is imported when a picture is asked for, and not before.
    if name == "plot":
        import importlib

        return importlib.import_module(".plot", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
