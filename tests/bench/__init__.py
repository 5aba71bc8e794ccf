"""Benchmarks beside what a user would pick instead, as ratios: ``python -m tests.bench``."""
