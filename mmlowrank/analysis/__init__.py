"""Looking at models: counts."""

from .counting import build_on_meta, count_parameters

__all__ = ['build_on_meta', 'count_parameters']
