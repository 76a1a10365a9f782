"""E3VA whose highway has the adapters of Mona, hidden width 64."""

# The authors' later public code keeps a frozen backbone in training mode, so
# its stochastic depth stays active; mmlowrank switches it off unless told.
tuner = dict(type='mmlowrank.SwinE3VA', adapter='mona', stochastic_trunk=True)
