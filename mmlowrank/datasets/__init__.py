"""Data for quick experiments and benchmarks; nothing is imported eagerly."""
