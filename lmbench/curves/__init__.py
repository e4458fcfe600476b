"""A number as a pure function of the step of a training."""

from lmbench.curves.base import Curve as Curve
from lmbench.curves.base import CurveField as CurveField
