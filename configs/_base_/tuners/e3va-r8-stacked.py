"""E3VA with stacked adapters (ablation, table 5)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinE3VA',
    rank=8,
    structure='stacked',
    stochastic_trunk=True,
)
