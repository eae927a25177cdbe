"""Tables that stand on this machine, the five benchmark sets of MAF, densities in the plane.

Nothing is shipped: tables are read where the user has them, or fetched from where their authors put them.
"""

from ._densities import (
    Checkerboard,
    EightGaussians,
    Moons,
    Pinwheel,
    Rings,
    Spirals,
    make_checkerboard,
    make_eight_gaussians,
    make_moons,
    make_pinwheel,
    make_rings,
    make_spirals,
)
from ._files import load_table
from ._maf import fetch_bsds300, fetch_gas, fetch_hepmass, fetch_miniboone, fetch_power

__all__ = [
    "Checkerboard",
    "EightGaussians",
    "Moons",
    "Pinwheel",
    "Rings",
    "Spirals",
    "fetch_bsds300",
    "fetch_gas",
    "fetch_hepmass",
    "fetch_miniboone",
    "fetch_power",
    "load_table",
    "make_checkerboard",
    "make_eight_gaussians",
    "make_moons",
    "make_pinwheel",
    "make_rings",
    "make_spirals",
]
