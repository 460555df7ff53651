"""Data sets of images: CIFAR-10, CIFAR-100, MNIST, and images that belong to none of them."""

import io
from itertools import pairwise

import numpy as np
from sklearn.utils import Bunch

from noisyfit.datasets._files import find_files
from noisyfit.datasets._readers import open_archive, read_array, read_idx, read_pickle, read_strips
from noisyfit.images import read_rgb

_CIFAR10_BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
_IDX_FILES = [
    f"MNIST/raw/{part}-{kind}-ubyte"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def load_cifar10(root=None):
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes, 32 x 32 pixels.

    Parameters
    ----------
    root : str or path, optional
        Folder with `cifar-10-batches-py/`, or with `cifar10_train_a.zip`, `cifar10_train_b.zip`
        and `cifar10_test.zip`.

    Returns
    -------
    data : Bunch
        `X_train`, `X_test` uint8 (n, 3, 32, 32); `y_train`, `y_test` int64 (n,); `class_names`,
        a list; `source`, where it was read.

    Raises
    ------
    FileNotFoundError
        When neither layout is complete.
    ValueError
        For an archive that is cut or lacks images.
    pickle.UnpicklingError
        For a batch that is damaged, or that holds anything but arrays and plain containers.

    References
    ----------
    .. [1] Krizhevsky. Learning multiple layers of features from tiny images. 2009.

    Examples
    --------
    >>> from noisyfit.datasets import load_cifar10
    >>> load_cifar10("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    FileNotFoundError: No CIFAR-10 in ...: missing cifar-10-batches-py/data_batch_1 ...
    """
    batches = [f"cifar-10-batches-py/{name}" for name in _CIFAR10_BATCHES]
    archives = ["cifar10_train_a.zip", "cifar10_train_b.zip", "cifar10_test.zip"]
    hint = "torchvision.datasets.CIFAR10(root, download=True) gets it"
    paths = find_files(root, "CIFAR-10", hint, batches, archives)
    if len(paths) == len(archives):
        parts = [_cifar10_archive(path) for path in paths]
        with open_archive(paths[0]) as archive:
            names = archive.read("classes.txt").decode().split()
    else:
        parts = [_cifar_batch(path, "labels")[:2] for path in paths[:-1]]
        names = read_pickle(paths[-1])["label_names"]
    X_train, y_train = (np.concatenate(part) for part in zip(*parts[:-1], strict=True))
    return _splits(X_train, y_train, *parts[-1], class_names=names, source=str(paths[0].parent))


def load_cifar100(root=None):
    """CIFAR-100: 50,000 training and 10,000 test images of 100 classes in 20 super-classes.

    Parameters
    ----------
    root : str or path, optional
        Folder with `cifar-100-python/`, or with `cifar100.zip`.

    Returns
    -------
    data : Bunch
        As :func:`load_cifar10`, and `y_train_coarse`, `y_test_coarse` int64 (n,), the
        super-classes; `order_uncertain`, `order_uncertain_test` bool (n,), training and test rows
        whose place among the rows of their class is a guess.

    Raises
    ------
    FileNotFoundError
        When neither layout is complete.
    ValueError
        For an archive that is cut or lacks images.
    pickle.UnpicklingError
        For a file that is damaged, or that holds anything but arrays and plain containers.

    Notes
    -----
    The images of `cifar100.zip` are lossy (JPEG), and 123 of them have an uncertain place: leave
    these out where labels from elsewhere must meet their own image. `cifar-100-python/` is exact,
    with no uncertain row, and is preferred where both lie in the folder.

    References
    ----------
    .. [1] Krizhevsky. Learning multiple layers of features from tiny images. 2009.

    Examples
    --------
    >>> from noisyfit.datasets import load_cifar100
    >>> load_cifar100("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    FileNotFoundError: No CIFAR-100 in ...: missing cifar-100-python/train ...
    """
    pickles = [f"cifar-100-python/{name}" for name in ("train", "test", "meta")]
    hint = "torchvision.datasets.CIFAR100(root, download=True) gets it"
    paths = find_files(root, "CIFAR-100", hint, pickles, ["cifar100.zip"])
    if len(paths) == 1:
        with open_archive(paths[0]) as archive:
            train, test = (_cifar100_part(archive, part) for part in ("train", "test"))
            names = archive.read("classes.txt").decode().split()
    else:
        train, test = (_cifar_batch(p, "fine_labels", "coarse_labels") for p in paths[:2])
        train, test = ((*part, np.zeros(len(part[0]), bool)) for part in (train, test))
        names = read_pickle(paths[2])["fine_label_names"]
    data = _splits(*train[:2], *test[:2], class_names=names, source=str(paths[0]))
    data.y_train_coarse, data.order_uncertain = train[2].astype(np.int64), train[3]
    data.y_test_coarse, data.order_uncertain_test = test[2].astype(np.int64), test[3]
    return data


def load_mnist(root=None):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28 grey pixels.

    Parameters
    ----------
    root : str or path, optional
        Folder with `MNIST/raw/` (four IDX files, gzipped or not), or with `mnist.npz`.

    Returns
    -------
    data : Bunch
        `X_train`, `X_test` uint8 (n, 1, 28, 28); `y_train`, `y_test` int64 (n,); `class_names`,
        a list; `source`, where it was read.

    Raises
    ------
    FileNotFoundError
        When no layout is complete.
    ValueError
        For an IDX file that is damaged.

    References
    ----------
    .. [1] LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document
       recognition. Proceedings of the IEEE 86, 1998.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from noisyfit.datasets import load_mnist
    >>> X, y = np.zeros((2, 28, 28), np.uint8), np.array([5, 0], np.uint8)
    >>> with tempfile.TemporaryDirectory() as root:
    ...     np.savez(f"{root}/mnist.npz", x_train=X, y_train=y, x_test=X, y_test=y)
    ...     data = load_mnist(root)
    >>> data.X_train.shape, data.y_train
    ((2, 1, 28, 28), array([5, 0]))
    """
    gzipped = [f"{name}.gz" for name in _IDX_FILES]
    hint = "torchvision.datasets.MNIST(root, download=True) gets it"
    paths = find_files(root, "MNIST", hint, _IDX_FILES, gzipped, ["mnist.npz"])
    if len(paths) == 1:
        with np.load(paths[0]) as file:
            parts = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    else:
        parts = [read_idx(path) for path in paths]
    X_train, y_train, X_test, y_test = parts
    names = [str(digit) for digit in range(10)]
    source = str(paths[0] if len(paths) == 1 else paths[0].parent)
    X_train, X_test = X_train[:, None].copy(), X_test[:, None].copy()
    return _splits(X_train, y_train, X_test, y_test, class_names=names, source=source)


def load_tinyimagenet_ood(root=None):
    """5,000 images of Tiny-ImageNet at 32 x 32 pixels, to stand for the unknown.

    Parameters
    ----------
    root : str or path, optional
        Folder with `tinyimagenet32_ood.npz`.

    Returns
    -------
    data : Bunch
        `X` uint8 (5000, 3, 32, 32); `y` int64 (5000,), of 200 classes; `wnids` and `class_names`,
        the WordNet identifier and the words of every class, lists; `source`.

    Raises
    ------
    FileNotFoundError
        When the file is not there.

    Notes
    -----
    Many classes overlap with those of CIFAR: for a strict test leave them out by `class_names`.

    References
    ----------
    .. [1] Le, Yang. Tiny ImageNet visual recognition challenge. Stanford CS231N, 2015.

    Examples
    --------
    >>> from noisyfit.datasets import load_tinyimagenet_ood
    >>> load_tinyimagenet_ood("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    FileNotFoundError: No Tiny-ImageNet in ...: missing tinyimagenet32_ood.npz; ...
    """
    hint = "it is a compact archive, made from 32 x 32 copies of the validation images"
    (path,) = find_files(root, "Tiny-ImageNet", hint, ["tinyimagenet32_ood.npz"])
    with np.load(path) as file:
        content, offsets = file["data"].tobytes(), file["offsets"]
        y, wnids, words = file["label"].astype(np.int64), file["wnids"], file["words"]
    images = [
        np.asarray(read_rgb(io.BytesIO(content[start:stop]))) for start, stop in pairwise(offsets)
    ]
    X = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    names = {"wnids": wnids.tolist(), "class_names": words.tolist()}
    return Bunch(X=X, y=y, **names, source=str(path))


def _cifar_batch(path, *keys):
    """Return images (n, 3, 32, 32) and the named label columns of a pickled batch."""
    batch = read_pickle(path)
    return batch["data"].reshape(-1, 3, 32, 32), *(np.array(batch[key]) for key in keys)


def _cifar10_archive(path):
    with open_archive(path) as archive:
        return read_strips(archive), read_array(archive, "labels.npy")


def _cifar100_part(archive, part):
    names = ("fine", "coarse", "order_uncertain")
    columns = (read_array(archive, f"{part}/{name}.npy") for name in names)
    return read_strips(archive, f"{part}/"), *columns


def _splits(X_train, y_train, X_test, y_test, *, class_names, source):
    """Return training and test rows as a Bunch, refusing parts that lost images or labels."""
    for X, y in ((X_train, y_train), (X_test, y_test)):
        if len(X) != len(y):
            raise ValueError(f"{source} holds {len(X)} images for {len(y)} labels; get it again.")
    return Bunch(
        X_train=X_train,
        y_train=y_train.astype(np.int64),
        X_test=X_test,
        y_test=y_test.astype(np.int64),
        class_names=class_names,
        source=source,
    )
