"""Couplings: which base point is paired with which data point before the interpolant joins them."""

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.preprocessing import LabelEncoder

from ._component import Component, seeded


class Coupling(Component):
    r"""The joint law of :math:`(x_0, x_1)`; its two marginals must be those of base and data.

    Whatever the coupling, :math:`v_t(x) = E[\dot x_t \mid x_t = x]` carries the base into the data.  What
    it changes is the path between: the less :math:`E|x_1 - x_0|^2` is, the straighter and shorter the flow
    (Albergo et al., arXiv:2310.03725).

    To write your own, subclass and define ``pair(x0, x1, generator)``.  Where there is something to learn
    first, define ``fit(x0, x1, generator)`` as well, which gets draws of both ends and returns the coupling.
    """

    def pair(self, x0, x1, generator):
        """The two batches, rows that belong together side by side.

        Parameters
        ----------
        x0, x1 : tensor of shape (n, d), float32
            Independent draws of base and data, in the space after the preprocessor, in random order.
        generator : torch.Generator
            The only source of randomness.

        Returns
        -------
        x0, x1 : tensor of shape (n, d)
            In an order that is random as well: the time of a pair depends on its place in the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pair(x0, x1, generator).")


class Independent(Coupling):
    """Every base point with any data point: the paper's choice, which costs nothing.

    The only coupling under which the velocity gives the score; see
    :meth:`siflow_sk.InterpolantFlow.score_function`.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.couplings import Independent
    >>> x0, x1 = torch.zeros(1, 2), torch.ones(1, 2)
    >>> Independent().pair(x0, x1, torch.Generator())
    (tensor([[0., 0.]]), tensor([[1., 1.]]))
    """

    def pair(self, x0, x1, generator):
        """The batches as they are."""
        return x0, x1


class OptimalTransport(Coupling):
    r"""Mini-batch optimal transport: the assignment inside a batch with the least sum of squares.

    .. math:: \min_\sigma \sum_i |x_1^{(i)} - x_0^{(\sigma(i))}|^2

    With growing ``batch_size`` the law of the pairs tends to the optimal transport between base and data,
    and with ``interpolant="linear"`` the energy of the flow to :math:`W_2^2`, its least possible value; a
    small batch of many columns stays close to independent pairs.  The assignment is exact whoever finds
    it, on the CPU: :func:`scipy.optimize.linear_sum_assignment`, whose cost grows with the cube of
    ``batch_size``, or the network simplex of POT (:func:`ot.emd`), which is the faster one where a batch is
    large.

    Parameters
    ----------
    scipy_limit : int, default=1024
        Largest batch that SciPy assigns; a larger one takes POT (extra ``ot``).

    Raises
    ------
    ImportError
        A larger batch, and POT is not installed.

    References
    ----------
    .. [1] A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
       transport", TMLR 2024, arXiv:2302.00482.
    .. [2] N. Bonneel et al., "Displacement interpolation using Lagrangian mass transport", ACM Trans. Graph.
       30 (2011) 158, the network simplex.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.couplings import OptimalTransport
    >>> x0, x1 = torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[8.0], [1.0], [4.0]])
    >>> OptimalTransport().pair(x0, x1, torch.Generator())[0].T
    tensor([[9., 0., 5.]])
    """

    scipy_limit = 1024  # of files from before there was a choice

    def __init__(self, scipy_limit=1024):
        self.scipy_limit = scipy_limit

    def cost(self, x0, x1):
        """Half of :math:`|x_1 - x_0|^2` for every pair, less what all assignments have in common."""
        centre = x1.mean(0)  # for the digits
        return -((x1 - centre).double() @ (x0 - centre).double().T)

    def pair(self, x0, x1, generator):
        """``x0`` in the order that fits ``x1``."""
        cost = self.cost(x0, x1).detach().cpu().numpy()
        large = len(x0) > self.scipy_limit
        columns = self._by_pot(cost) if large else linear_sum_assignment(cost)[1]
        return x0[torch.as_tensor(columns, device=x0.device)], x1

    def _by_pot(self, cost):
        try:
            from ot import emd
        except ImportError as error:
            raise ImportError(
                f"coupling={self!r}: batches of {len(cost)} rows are assigned by POT, which is not "
                f'installed. pip install "siflow_sk[ot]" adds it; or lower batch_size to {self.scipy_limit}, '
                "or raise scipy_limit and wait."
            ) from error
        # a vertex of the polytope of plans is a permutation; the plan has one entry in every row
        return emd([], [], cost, numItermax=10**8).argmax(1)


class ByCluster(Coupling):
    r"""Pairs inside the same cluster: of two factorised mixtures, each part with its counterpart.

    If :math:`\rho_0 = \sum_k p_k\rho_0^k` and :math:`\rho_1 = \sum_k p_k\rho_1^k`, the parts may be joined
    one by one: draw k, then x0 and x1 independently from the parts k [1]_.  Rows then stay in their group,
    whatever is near.  Inside a batch this is the assignment with the fewest pairs across clusters, chosen at
    random: where the clusters have other shares at the two ends, what is left over is paired independently,
    and both marginals are kept.

    Parameters
    ----------
    clusterer : estimator, default=None
        Any scikit-learn estimator with ``predict``.  A clone is fitted to draws of both ends together, in the
        space after the preprocessor; a ``FrozenEstimator`` is taken as it is, around a classifier that knows
        the groups for example, and predicts in that space too: ``preprocessor="none"`` makes it that of X,
        but that periodic columns are in radians there, and cut at the start of their turn.
        ``None`` is ``KMeans()``.

    Attributes
    ----------
    clusterer_ : estimator
        Only after ``fit``.

    References
    ----------
    .. [1] M. S. Albergo, E. Vanden-Eijnden, arXiv:2209.15571, factorised interpolants.

    Examples
    --------
    >>> import torch
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from siflow_sk.couplings import ByCluster
    >>> sign = FrozenEstimator(LogisticRegression().fit([[-1.0], [1.0]], [0, 1]))
    >>> x0, x1 = torch.tensor([[-3.0], [2.0]]), torch.tensor([[0.5], [-0.1]])
    >>> coupling = ByCluster(sign).fit(x0, x1, torch.Generator())
    >>> coupling.pair(x0, x1, torch.Generator())[0].T
    tensor([[ 2., -3.]])
    """

    def __init__(self, clusterer=None):
        self.clusterer = clusterer

    def fit(self, x0, x1, generator):
        """Fit a clone of the clusterer to the rows of both ends, ``(n, d)`` each.

        Raises
        ------
        ValueError
            It cannot say the cluster of a row that it was not fitted to.
        """
        clusterer = KMeans() if self.clusterer is None else clone(self.clusterer)
        if not hasattr(clusterer, "predict"):
            raise ValueError(
                f"ByCluster: clusterer={clusterer!r} has no predict, so it cannot label the rows of a batch; "
                "take KMeans, GaussianMixture or a classifier in a FrozenEstimator."
            )
        rows = torch.cat([x0, x1]).detach().double().cpu().numpy()
        self.clusterer_ = seeded(clusterer, generator).fit(rows, None)  # FrozenEstimator insists on y
        return self

    def pair(self, x0, x1, generator):
        """``x0`` in an order that gives as many rows of ``x1`` as possible a partner of their cluster."""
        n, rows = len(x0), torch.cat([x0, x1]).detach().double().cpu().numpy()
        labels = torch.as_tensor(LabelEncoder().fit_transform(self.clusterer_.predict(rows)))
        # a number for "the i-th of cluster k": rows with the same number are partners
        first, second = (n * part + _places(part) for part in (labels[:n], labels[n:]))
        rest = n * (labels.max() + 1) + torch.arange(n)  # both sides have as many, in random order
        first, second = (
            torch.where(torch.isin(own, other), own, rest)
            for own, other in ((first, second), (second, first))
        )
        order = torch.empty(n, dtype=torch.long)
        order[second.argsort()] = first.argsort()
        return x0[order.to(x0.device)], x1


def _places(labels):
    """How many rows before each one have its label."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    places = torch.empty_like(labels)
    places[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return places


class Paired(Coupling):
    """The rows of two tables as they stand, row i with row i; for :class:`siflow_sk.InterpolantTransport`.

    Raises
    ------
    ValueError
        When used where one end is a base, whose draws belong to no row.
    """

    def pair(self, x0, x1, generator):
        """Refuse: pairs that are given are not drawn."""
        raise ValueError(
            'coupling="paired" joins the rows of two tables, which InterpolantTransport is fitted to; draws '
            'of a base belong to no row. Use coupling="independent" or "optimal_transport" here.'
        )


COUPLINGS = {"independent": Independent, "optimal_transport": OptimalTransport, "by_cluster": ByCluster}
