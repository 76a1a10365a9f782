"""Mona: two adapters with convolutions per block, hidden width 64."""

# The authors' public code keeps a frozen backbone in training mode, so its
# stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinMona', mid_channels=64, stochastic_trunk=True)
