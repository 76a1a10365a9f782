"""Partial: the last block trains."""

tuner = dict(type='Partial', blocks=1)
