"""A density of one or two columns."""

import inspect

import numpy as np

from ._axes import pyplot, single
from ._table import axis_of, check_density, frame_of, like, middle_of, positions, rows_on_grid

METHODS = ("pcolormesh", "contourf", "contour")


class DensityDisplay:
    """The density of a table of one or two columns, or a slice through that of more.

    With more columns than are drawn, the others are held at one value each, and what is drawn is the joint
    density on that slice: up to a factor, the conditional density of the drawn columns given the others.
    It is *not* their marginal density, which no estimator gives without an integral; for that look at
    :class:`SamplesDisplay`.

    Use :meth:`from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    values : list of ndarray
        One or two, the values of the drawn columns on the grid, increasing.
    log_density : ndarray of shape (n,) or (n_second, n_first)
        Nats, at the points of the grid.
    names : list of str
        Of the drawn columns.
    held : dict, default=None
        Name -> value of the columns that are held.

    Attributes
    ----------
    artist_ : matplotlib artist
        What was drawn: a ``Line2D``, ``QuadMesh`` or ``QuadContourSet``.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    SamplesDisplay : Rows that are drawn from a density beside the data.
    PathDisplay : Densities between base and data.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from siflow_sk.plotting import DensityDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> density = GaussianMixture(random_state=0).fit(X)
    >>> display = DensityDisplay.from_estimator(density, X, features=[0, 2], grid_resolution=50)
    >>> display.log_density.shape
    (50, 50)
    >>> list(display.held)
    ['x1']
    """

    def __init__(self, *, values, log_density, names, held=None):
        self.values = values
        self.log_density = log_density
        self.names = names
        self.held = held

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        features=None,
        at=None,
        t=None,
        grid_resolution=100,
        plot_method="pcolormesh",
        ax=None,
        **kwargs,
    ):
        """Evaluate the density on a grid and draw it.

        Parameters
        ----------
        estimator : density estimator
            Fitted, with ``score_samples``, the log-density of rows: a flow, a pipeline, a mixture, a kernel
            density.
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Rows that say how far the grid goes, a tenth beyond them on each side, and where the other columns
            are held.  Columns of an integer dtype are drawn at whole numbers.
        features : str, int or list of one or two, default=None
            The columns to draw, by name or number; ``None`` takes all where there are at most two.
        at : array-like of shape (n_features,), default=None
            The values at which the other columns are held; ``None``: the median of each, the most frequent
            level where it holds no numbers.
        t : float, default=None
            A time between base and data, for an estimator whose ``score_samples`` takes one.
        grid_resolution : int, default=100
            Points along each column.
        plot_method : {"pcolormesh", "contourf", "contour"}, default="pcolormesh"
            For two columns.
        ax : matplotlib Axes, default=None
            Where to draw; ``None`` makes a figure.
        **kwargs : dict
            Passed to ``plot_method``, or to ``Axes.plot`` for one column.

        Returns
        -------
        display : DensityDisplay

        Raises
        ------
        TypeError
            The estimator has no density of X, or none at other times.
        ValueError
            More than two columns and no ``features``; columns that are not there, are constant or hold no
            numbers; ``at`` of another length.
        ImportError
            matplotlib is missing.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        check_density(estimator, "score_samples", cls.__name__)
        return cls._on_grid(estimator, X, X, features, at, t, grid_resolution).plot(plot_method, ax, **kwargs)

    @classmethod
    def _on_grid(cls, estimator, X, extent, features, at, t, resolution):
        """Computed and not drawn; the grid spans the rows of ``extent``."""
        frame = frame_of(X)
        drawn = positions(frame, features, at_most=2, limit=2)
        row = middle_of(frame) if at is None else list(at)
        if len(row) != frame.shape[1]:
            raise ValueError(
                f"at: one value for each of the {frame.shape[1]} columns wanted, got {len(row)}."
            )
        timed = {} if t is None else {"t": t}
        if timed and "t" not in inspect.signature(estimator.score_samples).parameters:
            raise TypeError(
                f"{type(estimator).__name__} has the density of the data only, and none at t={t!r}; leave "
                "t out, or pass the flow inside it."
            )
        axes = [axis_of(frame_of(extent).iloc[:, j], resolution) for j in drawn]
        rows = rows_on_grid(frame, row, drawn, axes)
        log_density = estimator.score_samples(like(X, rows), **timed)
        names = [str(name) for name in frame.columns]
        return cls(
            values=axes,
            log_density=log_density.reshape([len(values) for values in reversed(axes)]),
            names=[names[j] for j in drawn],
            held={names[j]: row[j] for j in range(len(names)) if j not in drawn},
        )

    def plot(self, plot_method="pcolormesh", ax=None, **kwargs):
        """Draw it.

        Parameters
        ----------
        plot_method : {"pcolormesh", "contourf", "contour"}, default="pcolormesh"
            For two columns.
        ax : matplotlib Axes, default=None
            Where to draw; ``None`` makes a figure.
        **kwargs : dict
            Passed to ``plot_method``, or to ``Axes.plot`` for one column.

        Returns
        -------
        self : DensityDisplay

        Raises
        ------
        ValueError
            Another ``plot_method``.
        """
        if plot_method not in METHODS:
            raise ValueError(f"plot_method must be one of {METHODS}, got {plot_method!r}.")
        self.ax_ = single(f"{type(self).__name__}.plot", ax, (5.0, 4.0))
        self.figure_, density = self.ax_.figure, np.exp(self.log_density)
        if len(self.names) == 1:
            (self.artist_,) = self.ax_.plot(self.values[0], density, **kwargs)
            self.ax_.set(xlabel=self.names[0], ylabel="density")
        else:
            defaults = {} if "colors" in kwargs else {"cmap": "cividis"}
            if plot_method == "pcolormesh":
                defaults["shading"] = "gouraud"  # the values are those of points, not of cells
            kwargs = {**defaults, **kwargs}
            self.artist_ = getattr(self.ax_, plot_method)(*self.values, density, **kwargs)
            self.ax_.set(xlabel=self.names[0], ylabel=self.names[1])
        return self
