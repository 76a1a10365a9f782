"""ADAPTER-B: two bottleneck adapters per block, hidden width d/2."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinAdapter', mid_ratio=0.5, stochastic_trunk=True
)
