"""Reading and writing checkpoints.

Importing this package registers the loaders of foreign files with mmengine.
"""

from . import google_vit, safetensors_file, swin

__all__ = ['google_vit', 'safetensors_file', 'swin']
