"""Grid search whose candidates and folds are trained together."""

import contextlib
import itertools
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
from joblib.parallel import ParallelBackendBase
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from . import _tensors
from ._compat import _fit_context
from ._training import Meeting
from .flow._trained import PartsMixin
from .velocities import MLP

__all__ = ["InterpolantSearchCV"]

_SEATS = 16  # fits of a process at a time
_WIDTH = 128  # on a CPU wider networks gain nothing together
_MANY = 10_000


def _has_transform(search):
    return hasattr(getattr(search, "best_estimator_", search.estimator), "transform")


class InterpolantSearchCV(GridSearchCV):
    """:class:`~sklearn.model_selection.GridSearchCV` that trains its candidates and folds together.

    Everything but the time is that of ``GridSearchCV``: parameters, attributes, methods, and
    ``cv_results_``, to the digit that rounding allows.  Each fit keeps its rows, its random numbers and its
    decisions; but where networks have equal shapes, whatever their learning rates, weight decays, seeds or
    budgets, their weights are stacked along a leading axis and a step of all of them is one batched program,
    and so is a validation, and what the choice of a time grid is made of.  Candidates that see the same rows
    share the fit of an equal preprocessor.  What is left to each fit, one after the other, are the scores.
    The final ``refit`` is one fit on all rows.

    Rounding differs from that of a fit alone, as it does between two machines; what training makes of that is
    about as large as the error of a score, and far below the difference of two seeds.

    Parameters
    ----------
    estimator : estimator
        An :class:`~siflow_sk.InterpolantFlow`, or any estimator around flows: a pipeline, a classifier.
    param_grid : dict or list of dict
        As for ``GridSearchCV``; ``velocity__width`` reaches inside the network.
    scoring : str, callable, list, tuple or dict, default=None
        ``None`` takes the estimator's ``score``, for a density the mean log-density.
    n_jobs : int, default=None
        Processes.  Each trains its share of the fits together, up to 16 at a time, if the networks of all
        candidates are of the closed-form kind, ``"mlp"``, with ``width * n_blocks`` of at most 128: wider
        ones keep a processor busy alone, and are fitted as by ``GridSearchCV``.  On CUDA networks of any
        width are trained together, in one process.
    refit : bool, str or callable, default=True
    cv : int, cross-validation generator or iterable, default=None
    verbose : int, default=0
    pre_dispatch : int or str, default='2*n_jobs'
    error_score : 'raise' or numeric, default=np.nan
    return_train_score : bool, default=False
        All as for ``GridSearchCV``.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        The times are those of fits that wait for each other.
    best_estimator_, best_score_, best_params_, best_index_ : object
        As of ``GridSearchCV``, with all its other attributes.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow, InterpolantSearchCV
    >>> from siflow_sk.velocities import MLP
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> flow = InterpolantFlow(velocity=MLP(width=16), max_iter=20, polish=20, random_state=0)
    >>> search = InterpolantSearchCV(flow, {"weight_decay": [0.1, 1.0, 3.0]}, cv=3).fit(X)
    >>> len(search.cv_results_["mean_test_score"])
    3
    >>> search.score(X) > -4.0
    True
    """

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, **params):
        """Fit with all sets of parameters, then the best one on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like, default=None
        **params : dict of str -> object
            For ``fit`` of the estimator, for the splitter and the scorer, as in ``GridSearchCV``.

        Returns
        -------
        self : InterpolantSearchCV
        """
        together = self._together()
        if not together:
            return super().fit(X, y, **params)
        n_processes = 1 if together == "cuda" else joblib.effective_n_jobs(self.n_jobs)
        # threads share the list of warning filters and may leave it in another's state
        with warnings.catch_warnings(), joblib.parallel_config(backend=_Together(n_processes)):
            return super().fit(X, y, **params)

    @available_if(_has_transform)
    def fit_transform(self, X, y=None, **params):
        """Fit, then ``transform`` the same rows by the best estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y, **params
            As for :meth:`fit`.

        Returns
        -------
        Z : array-like of shape (n_samples, n_latent)
        """
        return self.fit(X, y, **params).transform(X)

    @available_if(_has_transform)
    def get_feature_names_out(self, input_features=None):
        """Names of the columns of ``transform``.

        Parameters
        ----------
        input_features : array-like of str, default=None

        Returns
        -------
        names : ndarray of str
        """
        check_is_fitted(self)
        return self.best_estimator_.get_feature_names_out(input_features)

    @available_if(_has_transform)
    def set_output(self, *, transform=None):
        """Set the container of ``transform``, of the estimator and of what was fitted already.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None

        Returns
        -------
        self : InterpolantSearchCV
        """
        for estimator in (self.estimator, getattr(self, "best_estimator_", None)):
            if estimator is not None:
                estimator.set_output(transform=transform)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags = get_tags(self.estimator).transformer_tags
        return tags

    def _together(self):
        """The kind of device on which all candidates gain by it, or None."""
        kinds = {
            _gains(clone(self.estimator).set_params(**clone(candidate, safe=False)))
            for candidate in ParameterGrid(self.param_grid)
        }
        return kinds.pop() if len(kinds) == 1 else None


def _gains(estimator):
    flows = [v for v in (estimator, *estimator.get_params().values()) if isinstance(v, PartsMixin)]
    try:
        networks = [flow._resolve("velocity") for flow in flows]
        kinds = {_tensors.resolve_device(flow.device).type for flow in flows}
        small = all(n.width * n.n_blocks <= _WIDTH for n in networks if isinstance(n, MLP))
    except (TypeError, ValueError):  # the fit will say so, and error_score decides what becomes of it
        return None
    if len(kinds) != 1 or not all(isinstance(network, MLP) for network in networks):
        return None
    return kinds.pop() if small or kinds == {"cuda"} else None


class _Together(ParallelBackendBase):
    """A backend of joblib that collects the tasks of a call and has each process train its share together."""

    supports_retrieve_callback = True

    def __init__(self, n_processes=1, **kwargs):
        super().__init__(**kwargs)
        self.n_processes, self.tasks = n_processes, []

    def effective_n_jobs(self, n_jobs):
        """As many as there are tasks: so each is submitted by itself, and all before any is retrieved."""
        return _MANY

    def submit(self, func, callback=None):
        self.tasks.append((func, callback))

    @contextlib.contextmanager
    def retrieval_context(self):
        while self.tasks:  # with a small pre_dispatch the callbacks submit more
            tasks, self.tasks = self.tasks, []
            n_shares = self.n_processes * math.ceil(len(tasks) / (self.n_processes * _SEATS))
            bounds = [len(tasks) * i // n_shares for i in range(n_shares + 1)]
            shares = [[func for func, _ in tasks[a:b]] for a, b in itertools.pairwise(bounds) if a < b]
            parallel = joblib.Parallel(min(self.n_processes, len(shares)), backend="loky")
            outcomes = itertools.chain.from_iterable(parallel(joblib.delayed(_share)(s) for s in shares))
            for (_, callback), outcome in zip(tasks, outcomes, strict=True):
                callback(outcome)
        yield

    def retrieve_result_callback(self, out):
        result, error = out
        if error is not None:
            raise error
        return result


def _share(tasks):
    """Results and errors of tasks that run in threads and meet."""
    with ThreadPoolExecutor(len(tasks)) as pool, Meeting(len(tasks)) as meeting:

        def run(task):
            with meeting.attend():
                return task()

        futures = [pool.submit(run, task) for task in tasks]
        return [(None, f.exception()) if f.exception() else (f.result(), None) for f in futures]
