"""What the displays share: colours, line styles and axes."""

from sklearn.utils._optional_dependencies import check_matplotlib_support

# Okabe and Ito: told apart with every common kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")


def open_axes(ax, caller):
    """The axes to draw in, a new figure's by default; ImportError where matplotlib is missing."""
    check_matplotlib_support(caller)
    from matplotlib import pyplot

    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
