from .base import AbstractController as AbstractController
from .base import Attempt as Attempt
from .base import Verdict as Verdict
from .constant import ConstantStep as ConstantStep
from .lyapunov import LyapunovControl as LyapunovControl
