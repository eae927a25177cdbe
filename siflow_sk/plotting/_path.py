"""From base to data: densities and rows on their way."""

import itertools

import numpy as np
import pandas as pd

from ._axes import BLUE, ORANGE, panels, pyplot, single
from ._density import DensityDisplay
from ._table import check_density, frame_of, like, positions


class PathDisplay:
    """The motion between base and data, or between tables: rows on their way, or the densities.

    Use :meth:`from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    times : ndarray of shape (n_times,)
        Increasing.
    paths : ndarray of shape (n_times, n_rows, n_columns)
        Where every row is at every time; one or two columns.
    names : list of str
        Of the columns.
    densities : list of DensityDisplay, default=None
        One for every time; drawn instead of the paths.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes, or the bounds of all panels.
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        One for every time where densities of two columns are drawn, else one.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from siflow_sk import InterpolantFlow
    >>> from siflow_sk.plotting import PathDisplay
    >>> from siflow_sk.velocities import MLP
    >>> X, _ = make_moons(300, noise=0.1, random_state=0)
    >>> flow = InterpolantFlow(velocity=MLP(width=16), max_iter=20, polish=0, random_state=0).fit(X)
    >>> PathDisplay.from_estimator(flow, X[:50]).paths.shape
    (41, 50, 2)
    >>> PathDisplay.from_estimator(flow, X, kind="density", grid_resolution=20).axes_.shape
    (5,)
    """

    def __init__(self, *, times, paths, names, densities=None):
        self.times = times
        self.paths = paths
        self.names = names
        self.densities = densities

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        kind="particles",
        times=None,
        features=None,
        grid_resolution=60,
        ax=None,
        **kwargs,
    ):
        """Carry rows, or densities, through time and draw them.

        Parameters
        ----------
        estimator : InterpolantFlow or InterpolantTransport
            Fitted.
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Rows to follow: of a flow, rows at t = 1, carried back to the base; of a transport, rows of the
            source.  The grid of the densities spans where they go.
        kind : {"particles", "density"}, default="particles"
            ``"particles"``: a line for every row, with its ends marked; one column is drawn against time,
            two in their plane (of more columns, their projection).  ``"density"``: for a table of two columns
            a strip, the density at each time in a panel and colours of its own; for one column a picture over
            time and value.
        times : int or array-like of increasing numbers, default=None
            The times, or how many from the first to the last; ``None``: 5 for a strip, else 41.
        features : str, int or list of one or two, default=None
            The columns to draw, for ``kind="particles"``; ``None`` takes all where there are at most two.
        grid_resolution : int, default=60
            Points along each column, for ``kind="density"``.
        ax : matplotlib Axes, default=None
            Where to draw; panels are put inside its bounds.  ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for the lines, or to ``Axes.pcolormesh`` for the densities.

        Returns
        -------
        display : PathDisplay

        Raises
        ------
        TypeError
            The estimator has no ``transport``, or for densities no ``score_samples``.
        ValueError
            An unknown kind; times that do not increase or lie outside; columns that cannot be drawn;
            densities of more than two columns.
        ImportError
            matplotlib is missing.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        check_density(estimator, "transport", cls.__name__)
        if kind not in ("particles", "density"):
            raise ValueError(f"kind must be 'particles' or 'density', got {kind!r}.")
        frame = frame_of(X)
        if kind == "density":
            check_density(estimator, "score_samples", f"{cls.__name__} with kind='density'")
            if features is not None or frame.shape[1] > 2:
                raise ValueError(
                    "kind='density' draws all columns of a table of one or two; for columns of a wider one "
                    "take kind='particles', or DensityDisplay with a time t."
                )
        drawn = positions(frame, features, at_most=2, limit=2)
        times = _times(estimator, times, default=5 if kind == "density" and len(drawn) == 2 else 41)
        paths, densities = _carried(estimator, X, times), None
        if kind == "density":
            extent = pd.DataFrame(paths.reshape(-1, paths.shape[2]), columns=frame.columns)
            densities = [
                DensityDisplay._on_grid(estimator, like(X, extent), extent, None, None, t, grid_resolution)
                for t in times
            ]
        names = [str(frame.columns[j]) for j in drawn]
        display = cls(times=times, paths=paths[:, :, drawn], names=names, densities=densities)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; panels are put inside its bounds.  ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for the lines, or to ``Axes.pcolormesh`` for the densities.

        Returns
        -------
        self : PathDisplay
        """
        caller = f"{type(self).__name__}.plot"
        if self.densities is not None and len(self.names) == 2:
            shape = (1, len(self.times))
            self.ax_, axes = panels(caller, ax, shape, (2.4, 2.5), sharex=True, sharey=True)
            self.axes_ = axes[0]
            for axis, t, density in zip(self.axes_, self.times, self.densities, strict=True):
                density.plot(ax=axis, **kwargs)
                axis.set_title(f"t = {t:.3g}")
                axis.label_outer()
        else:
            self.ax_ = single(caller, ax, (5.0, 4.0))
            self.axes_ = np.array([self.ax_])
            if self.densities is None:
                self._lines(**kwargs)
            else:
                self._over_time(**kwargs)
        self.figure_ = self.ax_.figure
        return self

    def _lines(self, **kwargs):
        ends = self.paths[[0, -1]]  # (2, n, k)
        if len(self.names) == 1:
            lines, ends = (
                (self.times, self.paths[:, :, 0]),
                [(np.full(len(end), t), end[:, 0]) for t, end in zip(self.times[[0, -1]], ends, strict=True)],
            )
            self.ax_.set(xlabel="t", ylabel=self.names[0])
        else:
            lines, ends = (self.paths[:, :, 0], self.paths[:, :, 1]), [end.T for end in ends]
            self.ax_.set(xlabel=self.names[0], ylabel=self.names[1])
        self.ax_.plot(*lines, **{"color": "0.7", "linewidth": 0.8, "zorder": 1, **kwargs})
        for points, t, colour in zip(ends, self.times[[0, -1]], (ORANGE, BLUE), strict=True):
            self.ax_.scatter(*points, s=10, color=colour, label=f"t = {t:.3g}", zorder=2)
        self.ax_.legend(frameon=False)

    def _over_time(self, **kwargs):
        density = np.exp(np.stack([d.log_density for d in self.densities], axis=1))  # (n, n_times)
        style = {"cmap": "cividis", "shading": "gouraud", **kwargs}
        self.ax_.pcolormesh(self.times, self.densities[0].values[0], density, **style)
        self.ax_.set(xlabel="t", ylabel=self.names[0])


def _times(estimator, times, default):
    """Increasing times within those of the estimator."""
    known = getattr(estimator, "times_", np.array([0.0, 1.0]))
    times = default if times is None else times
    if np.ndim(times) == 0:
        times = np.linspace(known[0], known[-1], int(times))
    times = np.asarray(times, dtype=np.float64)
    if len(times) < 2 or not (np.diff(times) > 0).all() or times[0] < known[0] or times[-1] > known[-1]:
        raise ValueError(
            f"times: two or more increasing ones in [{known[0]:g}, {known[-1]:g}] wanted, got "
            f"{times.tolist()}."
        )
    return times


def _carried(estimator, X, times):
    """The rows at all times, ``(n_times, n, d)``."""
    if hasattr(estimator, "path"):
        return np.asarray(estimator.path(X, times))
    frame = frame_of(X)
    path = [like(X, frame)]
    for t, t_next in itertools.pairwise([1.0, *times[::-1]]):
        moved = np.asarray(estimator.transport(path[-1], t, t_next))
        path.append(like(X, pd.DataFrame(moved, columns=frame.columns)))
    return np.stack([np.asarray(rows) for rows in path[:0:-1]])
