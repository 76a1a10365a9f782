"""FIXED: nothing in the backbone trains; neck and heads do."""

from ..registry import TUNERS
from .frozen import FrozenTrunk
from .named import StockTuner


@TUNERS.register_module()
class Fixed(StockTuner, FrozenTrunk):
    """The frozen backbone, output norms included (the lower row).

    Args:
        stochastic_trunk: See :class:`Tuner`.
        trunk: See :class:`FrozenTrunk`.
    """
