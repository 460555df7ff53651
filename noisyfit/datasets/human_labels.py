"""Labels that people gave to CIFAR images: CIFAR-10N, CIFAR-100N, CIFAR-10H."""

import numpy as np
from sklearn.utils import Bunch

from noisyfit.datasets._files import find_files
from noisyfit.datasets._readers import read_torch_pickle

_CIFAR10N_KEYS = {
    "clean": "clean_label",
    "aggre": "aggre_label",
    "rand1": "random_label1",
    "rand2": "random_label2",
    "rand3": "random_label3",
    "worst": "worse_label",
}
_CIFAR100N_KEYS = {
    "clean": "clean_label",
    "noisy": "noisy_label",
    "clean_coarse": "clean_coarse_label",
    "noisy_coarse": "noisy_coarse_label",
}
_HUMAN = "the authors publish it in github.com/UCSC-REAL/cifar-10-100n (data/{})"


def load_cifar10n(root=None):
    """CIFAR-10N: labels that people gave to the CIFAR-10 training images.

    Parameters
    ----------
    root : str or path, optional
        Folder with `CIFAR-10_human.pt`, or with `cifar10n_labels.npz`.

    Returns
    -------
    labels : Bunch
        int64 arrays (50000,) in the order of :func:`load_cifar10`: `clean`; `rand1`, `rand2`,
        `rand3`, one annotator each; `aggre`, their majority, or one of them if all differ;
        `worst`, a wrong one of them wherever there is one. And `source`.

    Raises
    ------
    FileNotFoundError
        When neither file is there.
    ValueError
        For a published file that is cut.
    pickle.UnpicklingError
        For a published file that holds anything but arrays and plain containers.

    Notes
    -----
    Measured shares of wrong labels, in %: aggre 9.010, rand1 17.234, rand2 18.122, rand3 17.640,
    worst 40.208. The labels are licensed CC BY-NC 4.0.

    References
    ----------
    .. [1] Wei, Zhu, Cheng, Liu, Niu, Liu. Learning with noisy labels revisited: a study using
       real-world human annotations. ICLR 2022.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from noisyfit.datasets import load_cifar10n
    >>> names = ("clean", "aggre", "rand1", "rand2", "rand3", "worst")
    >>> with tempfile.TemporaryDirectory() as root:
    ...     np.savez(f"{root}/cifar10n_labels.npz", **{name: [6, 9] for name in names})
    ...     labels = load_cifar10n(root)
    >>> labels.worst
    array([6, 9])
    """
    return _human_labels(
        root, "CIFAR-10N", "CIFAR-10_human.pt", "cifar10n_labels.npz", _CIFAR10N_KEYS
    )


def load_cifar100n(root=None):
    """CIFAR-100N: labels that people gave to the CIFAR-100 training images.

    Parameters
    ----------
    root : str or path, optional
        Folder with `CIFAR-100_human.pt`, or with `cifar100n_labels.npz`.

    Returns
    -------
    labels : Bunch
        int64 arrays (50000,) in the order of :func:`load_cifar100`: `clean`, `noisy`, and the
        super-classes `clean_coarse`, `noisy_coarse`. And `source`.

    Raises
    ------
    FileNotFoundError
        When neither file is there.
    ValueError
        For a published file that is cut.
    pickle.UnpicklingError
        For a published file that holds anything but arrays and plain containers.

    Notes
    -----
    Measured shares of wrong labels: 40.200 %, of super-classes 26.404 %. Licence and reference as
    for :func:`load_cifar10n`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from noisyfit.datasets import load_cifar100n
    >>> names = ("clean", "noisy", "clean_coarse", "noisy_coarse")
    >>> with tempfile.TemporaryDirectory() as root:
    ...     np.savez(f"{root}/cifar100n_labels.npz", **{name: [19, 29] for name in names})
    ...     labels = load_cifar100n(root)
    >>> labels.noisy
    array([19, 29])
    """
    return _human_labels(
        root, "CIFAR-100N", "CIFAR-100_human.pt", "cifar100n_labels.npz", _CIFAR100N_KEYS
    )


def load_cifar10h(root=None):
    """CIFAR-10H: about 50 human votes for each CIFAR-10 test image.

    Parameters
    ----------
    root : str or path, optional
        Folder with `cifar10h-counts.npy`, or with `cifar10h_counts.npz`.

    Returns
    -------
    votes : Bunch
        `counts` int64 (10000, 10), votes for every class, in the order of the test images of
        :func:`load_cifar10`; `soft` float64 (10000, 10), their shares; `source`.

    Raises
    ------
    FileNotFoundError
        When neither file is there.

    Notes
    -----
    The votes are licensed CC BY-NC-SA 4.0.

    References
    ----------
    .. [1] Peterson, Battleday, Griffiths, Russakovsky. Human uncertainty makes classification
       more robust. ICCV 2019.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from noisyfit.datasets import load_cifar10h
    >>> with tempfile.TemporaryDirectory() as root:
    ...     np.save(f"{root}/cifar10h-counts.npy", [[3, 1], [0, 4]])
    ...     votes = load_cifar10h(root)
    >>> votes.soft.tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    hint = "its authors publish it in github.com/jcpeterson/cifar-10h (data/cifar10h-counts.npy)"
    layouts = (["cifar10h-counts.npy"], ["cifar10h_counts.npz"])
    (path,) = find_files(root, "CIFAR-10H", hint, *layouts)
    if path.suffix == ".npy":
        counts = np.load(path)
    else:
        with np.load(path) as file:
            counts = file["counts"]
    counts = counts.astype(np.int64)
    return Bunch(counts=counts, soft=counts / counts.sum(1, keepdims=True), source=str(path))


def _human_labels(root, name, published, compact, keys):
    """Return the label columns of the published file or the compact one, under our names."""
    (path,) = find_files(root, name, _HUMAN.format(published), [published], [compact])
    if path.name == published:
        content = read_torch_pickle(path)
        columns = {ours: content[theirs] for ours, theirs in keys.items()}
    else:
        with np.load(path) as file:
            columns = {ours: file[ours] for ours in keys}
    columns = {ours: np.asarray(column, dtype=np.int64) for ours, column in columns.items()}
    return Bunch(**columns, source=str(path))
