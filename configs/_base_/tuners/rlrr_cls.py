"""RLRR in the ViT or Swin of a classifier."""

# Stochastic depth of the frozen trunk stays active, as in the authors' code.
tuner = dict(type='RLRR', stochastic_trunk=True)
