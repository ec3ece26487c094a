from .adam import Adam as Adam
from .base import AbstractFlow as AbstractFlow
from .base import DecayBound as DecayBound
from .base import State as State
from .base import overrides as overrides
from .gradient import GradientFlow as GradientFlow
from .heavy_ball import HeavyBall as HeavyBall
