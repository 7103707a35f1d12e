"""The documentation site: `make docs`, or python -m sphinx -W -b html docs build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated_pages  # noqa: E402

import hetero_tvm  # noqa: E402

project = "hetero_tvm"
release = hetero_tvm.__version__
html_title = f"hetero_tvm {release}"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxarg.ext"]
exclude_patterns = ["README.md"]
source_suffix = {".md": "markdown"}
html_show_sourcelink = False
html_show_copyright = False
smartquotes = False  # they make one dash of the two before a flag

myst_heading_anchors = 3
# Fences without a language are output, and diagrams.
highlight_language = "none"

# Docstrings are Markdown with Google's sections; `name` in them is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True

generated_pages.write(HERE / "_generated")
