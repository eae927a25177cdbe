"""How training went."""

import itertools

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..flow._trained import TrainedMixin
from ..transport import InterpolantTransport
from ._axes import BLUE, GREY, ORANGE, PALETTE, panels, pyplot


class TrainingDisplay:
    """What ``fit`` recorded: the loss of each stage, and the log-density of the validation rows.

    One panel for each, as they have different units and none can be read off another: the quadratic loss has
    a floor above zero that depends on the data; validation is the log-density of whole rows, nats, units of
    X, less its numerical error; the loss of the polish is a penalised negative log-likelihood in the space
    after the preprocessor.  Losses are those of single batches, thin, and their running mean, thick.

    Use :meth:`from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    losses : dict
        Label -> quadratic loss per step; several for the parts of a chain in time.
    polish_loss : list of float, default=()
        Loss per step of the polish, which comes after the first stage.
    validation : DataFrame, default=None
        Columns ``stage``, ``iteration``, ``score``, as the ``history_`` of a flow.
    best : tuple (iteration, score), default=None
        Where the weights that were kept come from.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The bounds of all panels.
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        Quadratic loss, validation, polish, those that there are.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from siflow_sk import InterpolantFlow
    >>> from siflow_sk.plotting import TrainingDisplay
    >>> from siflow_sk.velocities import MLP
    >>> X, _ = make_moons(300, noise=0.1, random_state=0)
    >>> flow = InterpolantFlow(velocity=MLP(width=16), max_iter=20, polish=20, random_state=0).fit(X)
    >>> TrainingDisplay.from_estimator(flow).axes_.shape
    (3,)
    """

    def __init__(self, *, losses, polish_loss=(), validation=None, best=None):
        self.losses = losses
        self.polish_loss = polish_loss
        self.validation = validation
        self.best = best

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw the record of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`~siflow_sk.InterpolantFlow`, :class:`~siflow_sk.ConditionalInterpolantFlow` or
            :class:`~siflow_sk.InterpolantTransport`.  Of an estimator around one pass that one:
            ``pipeline.density_``, ``classifier.estimators_[0]``.
        ax : matplotlib Axes, default=None
            Where to draw; panels are put inside its bounds.  ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for every thick line.

        Returns
        -------
        display : TrainingDisplay

        Raises
        ------
        TypeError
            The estimator keeps no record of training.
        ImportError
            matplotlib is missing.
        """
        pyplot(f"{cls.__name__}.from_estimator")
        if not isinstance(estimator, TrainedMixin | InterpolantTransport):
            raise TypeError(
                f"{type(estimator).__name__} keeps no record of training; pass the flow inside it, for "
                "example pipeline.density_, density.estimator_ or classifier.estimators_[0]."
            )
        check_is_fitted(estimator)
        if isinstance(estimator, InterpolantTransport):
            times = itertools.pairwise(estimator.times_)
            labels = [f"t from {start:g} to {end:g}" for start, end in times]
            display = cls(losses=dict(zip(labels, estimator.loss_curves_, strict=True)))
        else:
            best = estimator.best_iteration_, estimator.best_validation_score_
            display = cls(
                losses={"": estimator.loss_curve_},
                polish_loss=estimator.polish_loss_curve_,
                validation=estimator.history_,
                best=best if best[1] is not None else None,
            )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; panels are put inside its bounds.  ``None`` makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for every thick line.

        Returns
        -------
        self : TrainingDisplay
        """
        n_steps = len(next(iter(self.losses.values())))
        drawings = [self._losses]
        if self.validation is not None and len(self.validation):
            drawings.append(self._validation)
        if len(self.polish_loss):
            drawings.append(lambda ax, **kw: self._polish(ax, n_steps, **kw))
        self.ax_, axes = panels(f"{type(self).__name__}.plot", ax, (1, len(drawings)), (4.0, 3.2))
        self.axes_, self.figure_ = axes[0], self.ax_.figure
        for axis, draw in zip(self.axes_, drawings, strict=True):
            draw(axis, **kwargs)
            axis.set_xlabel("iteration")
        return self

    def _losses(self, ax, **kwargs):
        for colour, (label, losses) in zip(itertools.cycle(PALETTE), self.losses.items()):
            _curve(ax, 1, losses, **{"color": colour, "label": label or None, **kwargs})
        ax.set(title="quadratic loss", ylabel="mean square, space of the flow")
        if any(self.losses):
            ax.legend(frameon=False)

    def _validation(self, ax, **kwargs):
        stages = {"quadratic": BLUE, "polish": ORANGE}
        for stage, colour in stages.items():
            part = self.validation[self.validation["stage"] == stage]
            if len(part):
                style = {"color": colour, "marker": ".", "label": stage, **kwargs}
                ax.plot(part["iteration"], part["score"], **style)
        if self.best is not None:
            ax.plot(*self.best, "o", markersize=10, markerfacecolor="none", color="black", label="kept")
        ax.set(title="validation", ylabel="mean log-density (nats)")
        ax.legend(frameon=False)

    def _polish(self, ax, n_steps, **kwargs):
        _curve(ax, n_steps + 1, self.polish_loss, **{"color": ORANGE, **kwargs})
        ax.set(title="loss of the polish", ylabel="nats, space of the flow")


def _curve(ax, first, values, **style):
    """Single batches thin, their running mean over a twentieth of the steps thick."""
    steps = first + np.arange(len(values))
    width = max(1, len(values) // 20)
    ax.plot(steps, values, color=GREY, linewidth=0.5, alpha=0.5)
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    ax.plot(steps[width - 1 :], mean, **style)
