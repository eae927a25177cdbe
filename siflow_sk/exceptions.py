"""Warnings of our own, so that they can be filtered by class."""

from sklearn.exceptions import ConvergenceWarning


class DataWarning(UserWarning):
    """The table has a property that a density estimator may stumble over (constant column, atoms, rank)."""


class TrainingWarning(ConvergenceWarning):
    """Training stopped in a way worth knowing about (interrupted, not converged, non-finite loss)."""


class SolverWarning(ConvergenceWarning):
    """The differential equation could not be solved to tolerance for some rows."""
