"""How Sphinx makes the site: ``uv run --group docs sphinx-build -W docs site``.

Sphinx, as it is well kept, checks all links, and reads docstrings in the markup that they are written in.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from made import make

from lse_stream import __version__

project = "lse-stream"
author = "The lse-stream authors"
project_copyright = "the lse-stream authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "inherited-members": False, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have them
autodoc_mock_imports = ["confluent_kafka", "pyspark"]
napoleon_use_rtype = False
napoleon_use_param = True
napoleon_use_ivar = True
# Docstrings and pages are in plain text: "..." and -- are what they look like.
smartquotes = False
highlight_language = "text"

html_theme = "furo"
html_title = f"lse-stream {release}"
html_show_sourcelink = False
html_copy_source = False

make(Path(__file__).parent)
