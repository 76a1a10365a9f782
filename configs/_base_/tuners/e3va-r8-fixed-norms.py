"""E3VA with frozen output norms (ablation, table 6)."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinE3VA',
    rank=8,
    train_fpn_norms=False,
    stochastic_trunk=True,
)
