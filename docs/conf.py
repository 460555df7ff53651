"""Settings of the manual: ``python -m sphinx -W -b html docs docs/_build/html``."""

from noisyfit import __version__

project = "noisyfit"
author = project_copyright = "The noisyfit developers"
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
autodoc_default_options = {"members": True, "inherited-members": True}
numpydoc_show_class_members = False

html_theme = "alabaster"
html_theme_options = {
    "description": "Learning with noisy labels as scikit-learn estimators over torch",
    "fixed_sidebar": True,
}


def setup(app):
    """Connect the hook."""
    app.connect("autodoc-skip-member", _skip_foreign)


def _skip_foreign(app, what, name, obj, skip, options):
    """Skip what our classes inherit from other projects, which document it themselves."""
    return skip or not str(getattr(obj, "__module__", None)).startswith("noisyfit")
