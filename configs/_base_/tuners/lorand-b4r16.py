"""LoRand++: 4 branches (alpha) of rank 16 (beta)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinLoRand', branches=4, rank=16, stochastic_trunk=True
)
