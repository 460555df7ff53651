"""Views one after another."""

from dataclasses import dataclass


@dataclass(frozen=True, init=False, repr=False)
class Chain:
    """Views one after another, as one view.

    Parameters
    ----------
    *views : callables (x, generator) -> x
        The first is applied first: crops and flips come before a policy, as in the papers.

    Raises
    ------
    TypeError
        If one of `views` cannot be called.

    Examples
    --------
    >>> from noisyfit.augment import AutoAugment, Chain, CropFlip
    >>> Chain(CropFlip(padding=4), AutoAugment("cifar10"))
    Chain(CropFlip(padding=4, flip=True), AutoAugment(policy='cifar10', fill=128))
    """

    views: tuple

    def __init__(self, *views):
        for view in views:
            if isinstance(view, type) or not callable(view):
                raise TypeError(f"views must be callables (x, generator), got {view!r}.")
        object.__setattr__(self, "views", views)

    def __repr__(self):
        return f"Chain({', '.join(map(repr, self.views))})"

    def __call__(self, x, generator):
        """View of `x` through all views."""
        for view in self.views:
            x = view(x, generator)
        return x
