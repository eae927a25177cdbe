"""Rows that were drawn beside the data."""

import copy
import inspect

import numpy as np
import pandas as pd

from .._tensors import draw_seed
from ._axes import BLUE, ORANGE, panels, pyplot
from ._table import check_density, frame_of, positions

_COLUMNS = 8  # more panels than 8 x 8 cannot be read


class SamplesDisplay:
    """Pairs of columns: the data below the diagonal, rows that were drawn above it.

    Where the model is right the picture is its own mirror image, up to noise.  On the diagonal the histogram
    of each column, of the data filled, of the drawn rows as a line.

    Use :meth:`from_estimator` or :meth:`from_samples`; the parameters are stored as attributes.

    Parameters
    ----------
    data, samples : ndarray of shape (n, n_columns), (m, n_columns)
    names : list of str

    Attributes
    ----------
    ax_ : matplotlib Axes
        The bounds of all panels.
    axes_ : ndarray of matplotlib Axes of shape (n_columns, n_columns)
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.mixture import GaussianMixture
    >>> from siflow_sk.plotting import SamplesDisplay
    >>> X = load_iris(as_frame=True).data.to_numpy()
    >>> mixture = GaussianMixture(3, random_state=0).fit(X)
    >>> SamplesDisplay.from_estimator(mixture, X, features=[0, 2, 3], random_state=0).axes_.shape
    (3, 3)
    """

    def __init__(self, *, data, samples, names):
        self.data = data
        self.samples = samples
        self.names = names

    @classmethod
    def from_estimator(
        cls, estimator, X, *, features=None, n_samples=1000, random_state=None, ax=None, **kwargs
    ):
        """Draw rows from the estimator, and draw them beside the data.

        Parameters
        ----------
        estimator : density estimator
            Fitted, with ``sample``: a flow, a pipeline, a mixture, a kernel density.
        X : {array-like, DataFrame} of shape (n_samples, n_features)
        features : str, int or list, default=None
            The columns to draw, by name or number, at most 8; ``None``: all.
        n_samples : int, default=1000
            Rows of each that are drawn, no more than X has.
        random_state : int, RandomState instance or None, default=None
            Which ones.
        ax : matplotlib Axes, default=None
            Panels are put inside its bounds; ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.scatter``.

        Returns
        -------
        display : SamplesDisplay

        Raises
        ------
        TypeError
            The estimator has no ``sample``, or draws y for given X.
        ValueError
            More than 8 columns and no ``features``; columns that are not there or hold no numbers.
        ImportError
            matplotlib is missing.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        check_density(estimator, "sample", cls.__name__)
        frame = frame_of(X)
        positions(frame, features, _COLUMNS, _COLUMNS)  # before the work
        n, seed = min(len(frame), n_samples), draw_seed(random_state)  # None is not NumPy's own generator
        frame, samples = frame.sample(n, random_state=seed), _draw(estimator, n, seed)
        return cls.from_samples(frame, samples, features=features, ax=ax, **kwargs)

    @classmethod
    def from_samples(cls, X, samples, *, features=None, ax=None, **kwargs):
        """Draw two tables: the data, and rows that come from anywhere.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
        samples : {array-like, DataFrame} of shape (n_drawn, n_features)
        features : str, int or list, default=None
            The columns to draw, by name or number, at most 8; ``None``: all.
        ax : matplotlib Axes, default=None
            Panels are put inside its bounds; ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.scatter``.

        Returns
        -------
        display : SamplesDisplay

        Raises
        ------
        ValueError
            As for :meth:`from_estimator`; tables of different width.
        ImportError
            matplotlib is missing.
        """
        pyplot(f"{cls.__name__}.from_samples")
        frame, samples = frame_of(X), pd.DataFrame(samples)
        if samples.shape[1] != frame.shape[1]:
            raise ValueError(f"samples: {frame.shape[1]} columns as in X wanted, got {samples.shape[1]}.")
        drawn = positions(frame, features, _COLUMNS, _COLUMNS)
        data, samples = (table.iloc[:, drawn].to_numpy(dtype=np.float64) for table in (frame, samples))
        display = cls(data=data, samples=samples, names=[str(frame.columns[j]) for j in drawn])
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Panels are put inside its bounds; ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.scatter``.

        Returns
        -------
        self : SamplesDisplay
        """
        k, style = len(self.names), {"s": 4, "linewidths": 0, "alpha": 0.6, **kwargs}
        size = {1: (4.0, 3.0), 2: (2.6, 2.4)}.get(k, (1.8, 1.8))
        self.ax_, self.axes_ = panels(f"{type(self).__name__}.plot", ax, (k, k), size, sharex="col")
        self.figure_ = self.ax_.figure
        for (i, j), axis in np.ndenumerate(self.axes_):
            if i == j:
                self._histograms(axis, j)
                continue
            rows, colour = (self.data, BLUE) if i > j else (self.samples, ORANGE)
            axis.scatter(rows[:, j], rows[:, i], **{"color": colour, **style})
            axis.sharey(self.axes_[i, 0 if i else 1])
            if j:
                axis.tick_params(labelleft=False)
        for j, name in enumerate(self.names):
            self.axes_[-1, j].set_xlabel(name)
            if k > 1:
                self.axes_[j, 0].set_ylabel(name)
        if ax is None:  # a figure of its own
            handles = self.axes_[0, 0].get_legend_handles_labels()
            self.figure_.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
        else:
            self.axes_[0, 0].legend(frameon=False, fontsize="small")
        return self

    def _histograms(self, axis, j):
        data, samples = self.data[:, j], self.samples[:, j]
        n_bins = min(30, max(8, int(np.sqrt(len(data)))))
        edges = np.histogram_bin_edges(np.concatenate([data, samples]), n_bins)
        axis.hist(data, edges, density=True, color=BLUE, alpha=0.4, label="data")
        line = {"histtype": "step", "linewidth": 1.5}
        axis.hist(samples, edges, density=True, color=ORANGE, label="drawn", **line)
        axis.tick_params(left=False, labelleft=False)


def _draw(estimator, n, seed):
    if "random_state" in inspect.signature(estimator.sample).parameters:
        return estimator.sample(n, random_state=seed)
    # GaussianMixture takes its seed as a parameter, and returns components as well
    estimator = copy.copy(getattr(estimator, "estimator", estimator)).set_params(random_state=seed)
    return estimator.sample(n)[0]
