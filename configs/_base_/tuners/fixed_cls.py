"""Linear probing: the backbone is frozen, the head trains."""

tuner = dict(type='Fixed')
