"""RLRR in the Swin of a detector or segmentor."""

# Stochastic depth of the frozen trunk stays active, as in the authors' code.
tuner = dict(type='mmlowrank.SwinRLRR', stochastic_trunk=True)
