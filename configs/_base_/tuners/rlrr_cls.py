"""RLRR in the ViT or Swin of a classifier."""

tuner = dict(type='RLRR')
