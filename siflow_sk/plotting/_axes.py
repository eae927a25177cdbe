"""Axes to draw in."""

import numpy as np

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe & Ito: distinct to colour-blind readers
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def pyplot(caller):
    """matplotlib.pyplot; ``caller`` is named where it is missing."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f'{caller} requires matplotlib; install it with pip install "siflow_sk[plot]".'
        ) from error
    return plt


def single(caller, ax, size):
    """``ax``, or the only axes of a new figure of ``size``, in inches."""
    plt = pyplot(caller)
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def panels(caller, ax, shape, size, **sharing):
    """A grid of axes inside the bounds of ``ax``, or of a new figure with panels of ``size``, in inches.

    Returns
    -------
    ax : Axes
        The bounds, switched off where there is more than one panel.
    axes : ndarray of Axes, of ``shape``
    """
    ax = single(caller, ax, (size[0] * shape[1], size[1] * shape[0]))
    if shape == (1, 1):
        return ax, np.array([[ax]])
    if ax.get_subplotspec() is None:
        raise ValueError(
            f"ax: {caller} draws {shape[0]} x {shape[1]} panels inside it, for which it must come from a "
            "grid, as those of plt.subplots do."
        )
    ax.set_axis_off()
    return ax, ax.get_subplotspec().subgridspec(*shape).subplots(squeeze=False, **sharing)
