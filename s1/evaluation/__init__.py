"""Benchmarks, metrics, plots and the report."""
