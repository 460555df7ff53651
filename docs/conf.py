"""Settings of the manual: ``python -m sphinx -W -b html docs docs/_build/html``."""

from noisyfit import __version__

project = "noisyfit"
author = "The noisyfit developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build/html", "changes"]
myst_heading_anchors = 3  # links to headings work as they do on a forge

autosummary_generate = True
autosummary_ignore_module_all = False  # what __all__ names is public
# made by scikit-learn, with references into its own manual
_ROUTING = "set_fit_request, set_partial_fit_request, set_score_request"
autodoc_default_options = {"members": True, "exclude-members": _ROUTING}
numpydoc_show_class_members = False

html_theme = "alabaster"
html_theme_options = {
    "description": "Learning with noisy labels as scikit-learn estimators over torch",
    "fixed_sidebar": True,
}
