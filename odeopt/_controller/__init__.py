from .base import AbstractController as AbstractController
from .base import Attempt as Attempt
from .constant import ConstantStep as ConstantStep
from .lyapunov import LyapunovControl as LyapunovControl
