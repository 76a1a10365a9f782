"""E3VA with dense adapters of hidden width 32 (ablation, table 5)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinE3VA',
    adapter='standard',
    mid_channels=32,
    stochastic_trunk=True,
)
