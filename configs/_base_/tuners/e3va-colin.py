"""E3VA whose highway has the adapters of CoLin, rank 28."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(
    type='mmlowrank.SwinE3VA',
    adapter='colin',
    rank=28,
    stochastic_trunk=True,
)
