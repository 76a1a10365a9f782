"""AdaMixer and LORS-AdaMixer, for mmdet: the only room that imports it."""

from .decoder import AdaMixerDecoder
from .detector import AdaMixer
from .neck import AdaMixerNeck
from .queries import AdaMixerQueries

__all__ = ['AdaMixer', 'AdaMixerDecoder', 'AdaMixerNeck', 'AdaMixerQueries']
