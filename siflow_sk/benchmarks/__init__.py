"""Measurements of siflow_sk beside its peers: ``python -m siflow_sk.benchmarks --help``.

Nothing else in the package imports this one.
"""
