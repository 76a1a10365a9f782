"""CoLin: two low-rank adapters with a convolution per block, rank 28."""

# The authors' public code keeps a frozen backbone in training mode, so its
# stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinCoLin',
    mid_channels=100,
    rank=28,
    stochastic_trunk=True,
)
