"""Sphinx configuration; nothing is fetched from the network."""

import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sphinx_gallery.sorting

from siflow_sk import __version__

project = "siflow_sk"
author = "The siflow_sk developers"
copyright = author
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "images",
    "auto_examples/*.md5",
    "auto_examples/*.ipynb",
    "sg_execution_times.rst",
]
templates_path = []
html_theme = "pydata_sphinx_theme"
html_title = "siflow_sk"
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"**": []}
html_show_sourcelink = False

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = True
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = False
