"""FULL: every backbone parameter trains."""

tuner = dict(type='mmlowrank.SwinFull')
