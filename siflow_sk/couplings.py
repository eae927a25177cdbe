"""Couplings: which base point is paired with which data point before the interpolant joins them."""

import torch
from scipy.optimize import linear_sum_assignment

from ._component import Component


class Coupling(Component):
    r"""The joint law of :math:`(x_0, x_1)`; its two marginals must be those of base and data.

    Whatever the coupling, :math:`v_t(x) = E[\dot x_t \mid x_t = x]` carries the base into the data.  What
    it changes is the path between: the less :math:`E|x_1 - x_0|^2` is, the straighter and shorter the flow
    (Albergo et al., arXiv:2310.03725).

    To write your own, subclass and define ``pair(x0, x1, generator)``.
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
    small batch of many columns stays close to independent pairs.  The assignment is exact
    (:func:`scipy.optimize.linear_sum_assignment`, on the CPU); its cost grows with the cube of
    ``batch_size``.

    References
    ----------
    .. [1] A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
       transport", TMLR 2024, arXiv:2302.00482.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.couplings import OptimalTransport
    >>> x0, x1 = torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[8.0], [1.0], [4.0]])
    >>> OptimalTransport().pair(x0, x1, torch.Generator())[0].T
    tensor([[9., 0., 5.]])
    """

    def pair(self, x0, x1, generator):
        """``x0`` in the order that fits ``x1``."""
        centre = x1.mean(0)
        # |x1 - x0|^2 less what every assignment has in common; centred for the digits
        cost = -(x1 - centre).double() @ (x0 - centre).double().T
        _, columns = linear_sum_assignment(cost.cpu().numpy())
        return x0[torch.as_tensor(columns, device=x0.device)], x1


COUPLINGS = {"independent": Independent, "optimal_transport": OptimalTransport}
