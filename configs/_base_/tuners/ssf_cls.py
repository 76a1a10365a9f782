"""SSF: a scale and a shift behind every layer."""

tuner = dict(type='SSF')
