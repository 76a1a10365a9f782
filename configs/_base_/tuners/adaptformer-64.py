"""AdaptFormer: two parallel bottlenecks per block, hidden width 64."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinAdaptFormer', mid_channels=64, stochastic_trunk=True
)
