"""Partial: the last block trains."""

tuner = dict(type='Partial', layers=(-1,))
