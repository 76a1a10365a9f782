"""AdaptFormer: one bottleneck beside the MLP, hidden width 8."""

tuner = dict(type='AdaptFormer', mid_channels=8, sites=('ffn',))
