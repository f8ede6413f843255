"""Sphinx's settings; `make docs` builds the pages into docs/_build/html."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]
os.environ["MPLBACKEND"] = "Agg"

import prune_gym  # noqa: E402

project = "prune_gym"
author = "the authors of prune_gym"
project_copyright = f"{author}. MIT licence"
release = version = prune_gym.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "mathml",
    "api_pages",
    "command_pages",
    "environment_pages",
    "prunebench_pages",
]
exclude_patterns = ["_build", "_extensions"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring: a link where there is something to link to
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False

smartquotes = False  # options begin with two hyphens

html_theme = "furo"
html_title = "prune_gym"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f6f8b", "color-brand-content": "#1f6f8b"},
    "dark_css_variables": {"color-brand-primary": "#6fb9d3", "color-brand-content": "#6fb9d3"},
}
