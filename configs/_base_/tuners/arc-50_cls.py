"""ARC: adapters of hidden width 50, shared by the blocks."""

tuner = dict(type='ARC', mid_channels=50)
