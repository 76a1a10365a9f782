"""Reading and writing checkpoints.

Importing this package registers the loaders of foreign files, and of URLs,
with mmengine.
"""

from . import downloads, google_vit, safetensors_file, swin

__all__ = ['downloads', 'google_vit', 'safetensors_file', 'swin']
