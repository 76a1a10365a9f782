"""FIXED: nothing in the backbone trains; neck and heads do."""

from ..registry import TUNERS
from .named import StockTuner


@TUNERS.register_module()
class Fixed(StockTuner):
    """The frozen backbone, output norms included (the lower row)."""

    trains_nothing = True
