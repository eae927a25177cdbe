"""Warnings of our own, so that they can be filtered by class."""

from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning


class DataWarning(UserWarning):
    """The table has a property that a density estimator may stumble over (constant column, atoms, rank)."""


class TrainingWarning(ConvergenceWarning):
    """Training stopped in a way worth knowing about (interrupted, not converged, non-finite loss)."""


class SolverWarning(ConvergenceWarning):
    """The differential equation could not be solved to tolerance for some rows."""


class VersionWarning(InconsistentVersionWarning):
    """A stored model comes from another version of a library whose private state it holds."""

    def __str__(self):
        return (
            f"{self.estimator_name} was stored by version {self.original_sklearn_version} and is loaded by "
            f"version {self.current_sklearn_version}: results may differ. Fit again, or load it with the "
            "version that stored it."
        )


class DeviceWarning(UserWarning):
    """A model is put on another kind of device than the one it was fitted on."""
