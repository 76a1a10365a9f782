"""Reading and writing checkpoints.

Importing this package registers the loaders of foreign layouts with mmengine.
"""

from . import google_vit, microsoft_swin

__all__ = ['google_vit', 'microsoft_swin']
