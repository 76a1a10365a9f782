"""LoRand+: 4 branches (alpha) of rank 8 (beta)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinLoRand', branches=4, rank=8, stochastic_trunk=True
)
