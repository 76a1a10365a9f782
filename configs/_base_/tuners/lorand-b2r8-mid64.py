"""LoRand: 2 branches (alpha) of rank 8 (beta), hidden width 64."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinLoRand',
    branches=2,
    rank=8,
    mid_channels=64,
    stochastic_trunk=True,
)
