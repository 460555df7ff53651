"""Readers: tiny files in every layout, damaged and malicious files, and the real counts."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import CenterCrop, Compose, Resize

from noisyfit.datasets import (
    load_cifar10,
    load_cifar10h,
    load_cifar10n,
    load_cifar100,
    load_cifar100n,
    load_mnist,
    load_tinyimagenet_ood,
)
from noisyfit.images import ImageFiles

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
N_BATCH = 4  # images in each of the six pickled batches


# ------------------------------------------------------------------ writers of both layouts


def py2_pickle(columns):
    """A dict in the opcodes that Python 2 used for the published CIFAR batches.

    Texts are byte strings, arrays carry their content as a byte string, dtype(...) gets 0 and 1.
    """
    return b"\x80\x02}(" + b"".join(py2(k) + py2(v) for k, v in columns.items()) + b"u."


def py2(value):
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"M" + struct.pack("<H", value)
    if isinstance(value, list):
        return b"](" + b"".join(py2(item) for item in value) + b"e"
    rows, columns = value.shape
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
    dtype += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    content = b"T" + struct.pack("<I", value.size) + value.tobytes()
    return (
        array + b"(K\x01" + py2(rows) + py2(columns) + b"\x86" + dtype + b"\x89" + content + b"tb"
    )


def write_strips(archive, images, first=0, prefix="", suffix="webp"):
    """Write images (n, 32, 32, 3) as strips of three named by their first index, last one first."""
    for start in reversed(range(0, len(images), 3)):
        strip = Image.fromarray(images[start : start + 3].reshape(-1, 32, 3))
        buffer = io.BytesIO()
        if suffix == "webp":
            strip.save(buffer, "WEBP", lossless=True)
        else:
            strip.save(buffer, "JPEG", quality=88, subsampling=0)
        archive.writestr(f"{prefix}{first + start:05d}.{suffix}", buffer.getvalue())


def write_npy(archive, name, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    archive.writestr(name, buffer.getvalue())


def flat(images):
    """Rows (n, 3072) of the pickled batches: all red values, then green, then blue."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def write_cifar10_compact(root, X, y):
    half = len(X) // 2 - 2
    for name, rows, first in (
        ("train_a", slice(0, half), 0),
        ("train_b", slice(half, 5 * N_BATCH), half),
        ("test", slice(5 * N_BATCH, None), 0),
    ):
        with zipfile.ZipFile(root / f"cifar10_{name}.zip", "w") as archive:
            write_strips(archive, X[rows], first)
            write_npy(archive, "labels.npy", y[rows].astype(np.uint8))
            archive.writestr("classes.txt", "\n".join(NAMES10) + "\n")


def write_cifar10_batches(root, X, y):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        rows = slice(i * N_BATCH, (i + 1) * N_BATCH)
        batch = {"batch_label": name, "labels": y[rows].tolist(), "data": flat(X[rows])}
        (folder / name).write_bytes(py2_pickle(batch))
    (folder / "batches.meta").write_bytes(py2_pickle({"label_names": NAMES10, "num_vis": 3072}))


def idx_bytes(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def cifar10(tmp_path):
    """A folder with both layouts, apart, of 24 random images, and the images and labels."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (6 * N_BATCH, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 10, len(X))
    (tmp_path / "compact").mkdir()
    write_cifar10_compact(tmp_path / "compact", X, y)
    write_cifar10_batches(tmp_path / "published", X, y)
    return tmp_path, X, y


@pytest.fixture
def mnist(tmp_path):
    """The four arrays of a tiny MNIST and a folder with IDX files, gzipped ones and an archive."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, 7).astype(np.uint8)
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    arrays = (X[:5], y[:5], X[5:], y[5:])
    for layout in ("raw", "gz"):
        (tmp_path / layout / "MNIST" / "raw").mkdir(parents=True)
    for name, array in zip(names, arrays, strict=True):
        (tmp_path / f"raw/MNIST/raw/{name}-ubyte").write_bytes(idx_bytes(array))
        with gzip.open(tmp_path / f"gz/MNIST/raw/{name}-ubyte.gz", "wb") as file:
            file.write(idx_bytes(array))
    (tmp_path / "npz").mkdir()
    np.savez(
        tmp_path / "npz/mnist.npz",
        **dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True)),
    )
    return tmp_path, arrays


def assert_images(X, expected):
    """Images are uint8, channels first, contiguous, writable and equal to the bit."""
    assert X.dtype == np.uint8
    assert X.flags.c_contiguous
    assert X.flags.writeable
    np.testing.assert_array_equal(X, expected)


# ------------------------------------------------------------------ images


@pytest.mark.parametrize("layout", ["compact", "published"])
def test_cifar10_either_layout_gives_the_written_images(cifar10, layout):
    root, X, y = cifar10
    data = load_cifar10(root / layout)
    X = X.transpose(0, 3, 1, 2)
    assert_images(data.X_train, X[: 5 * N_BATCH])
    assert_images(data.X_test, X[5 * N_BATCH :])
    np.testing.assert_array_equal(np.concatenate([data.y_train, data.y_test]), y)
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    assert data.class_names == NAMES10
    assert layout in data.source


def test_cifar100_either_layout_gives_the_decoded_images(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"class_{i}" for i in range(100)]
    (tmp_path / "published" / "cifar-100-python").mkdir(parents=True)
    expected = {}
    with zipfile.ZipFile(tmp_path / "cifar100.zip", "w") as archive:
        archive.writestr("classes.txt", "\n".join(names))
        for part, n in (("train", 7), ("test", 4)):
            write_strips(
                archive, rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), 0, f"{part}/", "jpg"
            )
            fine, coarse = rng.integers(0, 100, n), rng.integers(0, 20, n)
            uncertain = rng.random(n) < 0.5
            write_npy(archive, f"{part}/fine.npy", fine.astype(np.uint8))
            write_npy(archive, f"{part}/coarse.npy", coarse.astype(np.uint8))
            write_npy(archive, f"{part}/order_uncertain.npy", uncertain)
            strips = [archive.read(f"{part}/{i:05d}.jpg") for i in range(0, n, 3)]
            decoded = [np.asarray(Image.open(io.BytesIO(strip))) for strip in strips]
            X = np.concatenate(decoded).reshape(n, 32, 32, 3)
            expected[part] = X.transpose(0, 3, 1, 2), fine, coarse, uncertain
            batch = {
                "fine_labels": fine.tolist(),
                "coarse_labels": coarse.tolist(),
                "data": flat(X),
            }
            (tmp_path / f"published/cifar-100-python/{part}").write_bytes(py2_pickle(batch))
    meta = {"fine_label_names": names, "coarse_label_names": ["animals"]}
    (tmp_path / "published/cifar-100-python/meta").write_bytes(py2_pickle(meta))

    compact, published = load_cifar100(tmp_path), load_cifar100(tmp_path / "published")
    for data in (compact, published):
        for part in ("train", "test"):
            X, fine, coarse, _ = expected[part]
            assert_images(data[f"X_{part}"], X)
            np.testing.assert_array_equal(data[f"y_{part}"], fine)
            np.testing.assert_array_equal(data[f"y_{part}_coarse"], coarse)
        assert data.y_train_coarse.dtype == np.int64
        assert data.class_names == names
    np.testing.assert_array_equal(compact.order_uncertain, expected["train"][3])
    np.testing.assert_array_equal(compact.order_uncertain_test, expected["test"][3])
    assert not published.order_uncertain.any()
    assert published.order_uncertain.shape == (7,)


@pytest.mark.parametrize("layout", ["raw", "gz", "npz"])
def test_mnist_any_layout_gives_the_written_images(mnist, layout):
    root, (X_train, y_train, X_test, y_test) = mnist
    data = load_mnist(root / layout)
    assert_images(data.X_train, X_train[:, None])
    assert_images(data.X_test, X_test[:, None])
    np.testing.assert_array_equal(data.y_train, y_train)
    np.testing.assert_array_equal(data.y_test, y_test)
    assert data.y_train.dtype == np.int64
    assert data.class_names[3] == "3"


def test_tinyimagenet_files_in_one_array_are_decoded_one_by_one(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for mode in ("RGB", "L", "RGB"):  # some files of the data set are grey
        shape = (32, 32, 3) if mode == "RGB" else (32, 32)
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    np.savez(
        tmp_path / "tinyimagenet32_ood.npz",
        data=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0] + [len(file) for file in files]),
        label=np.array([1, 0, 1], np.uint8),
        wnids=np.array(["n01", "n02"]),
        words=np.array(["goldfish", "bridge"]),
    )
    data = load_tinyimagenet_ood(tmp_path)
    expected = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    assert_images(data.X, np.stack(expected).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.y, [1, 0, 1])
    assert (data.wnids, data.class_names) == (["n01", "n02"], ["goldfish", "bridge"])


# ------------------------------------------------------------------ human labels


def test_cifar10n_published_and_compact_files_agree(tmp_path):
    rng = np.random.default_rng(0)
    ours = ("clean", "aggre", "rand1", "rand2", "rand3", "worst")
    theirs = ("clean_label", "aggre_label", "random_label1", "random_label2", "random_label3")
    labels = rng.integers(0, 10, (6, 20))
    (tmp_path / "published").mkdir()
    published = dict(zip((*theirs, "worse_label"), labels, strict=True))
    torch.save(published, tmp_path / "published/CIFAR-10_human.pt")
    np.savez(tmp_path / "cifar10n_labels.npz", **dict(zip(ours, labels, strict=True)))
    for root in (tmp_path, tmp_path / "published"):
        data = load_cifar10n(root)
        for name, expected in zip(ours, labels, strict=True):
            assert data[name].dtype == np.int64
            np.testing.assert_array_equal(data[name], expected)


def test_cifar100n_published_lists_become_arrays(tmp_path):
    rng = np.random.default_rng(0)
    fine, coarse = rng.integers(0, 100, (2, 20)), rng.integers(0, 20, (2, 20)).tolist()
    (tmp_path / "published").mkdir()
    torch.save(
        {
            "clean_label": fine[0],
            "noisy_label": fine[1],
            "clean_coarse_label": coarse[0],
            "noisy_coarse_label": coarse[1],
        },
        tmp_path / "published/CIFAR-100_human.pt",
    )
    columns = {"clean": fine[0], "noisy": fine[1], "clean_coarse": coarse[0]}
    np.savez(tmp_path / "cifar100n_labels.npz", **columns, noisy_coarse=coarse[1])
    for root in (tmp_path, tmp_path / "published"):
        data = load_cifar100n(root)
        np.testing.assert_array_equal(data.noisy, fine[1])
        np.testing.assert_array_equal(data.noisy_coarse, coarse[1])
        assert data.noisy_coarse.dtype == data.clean.dtype == np.int64


def test_cifar10h_published_and_compact_files_agree(tmp_path):
    counts = np.array([[50, 1, 0], [10, 20, 20]])
    (tmp_path / "published").mkdir()
    np.save(tmp_path / "published/cifar10h-counts.npy", counts)
    np.savez(tmp_path / "cifar10h_counts.npz", counts=counts.astype(np.uint8), labels=[0, 1])
    for root in (tmp_path, tmp_path / "published"):
        data = load_cifar10h(root)
        np.testing.assert_array_equal(data.counts, counts)
        np.testing.assert_allclose(data.soft, [[50 / 51, 1 / 51, 0], [0.2, 0.4, 0.4]])


# ------------------------------------------------------------------ malicious and damaged files


class MakesFolder:
    """Its pickle creates a folder when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_restricted_unpickler_malicious_batch_is_refused_unrun(cifar10):
    root, _, _ = cifar10
    trap = root / "trap"
    harm = pickle.dumps({"labels": [0], "data": MakesFolder(trap)}, protocol=2)
    pickle.loads(harm)
    assert trap.is_dir()  # the trap works, so its absence below says something
    trap.rmdir()
    batch = root / "published/cifar-10-batches-py/data_batch_3"
    batch.write_bytes(harm)
    with pytest.raises(pickle.UnpicklingError, match=r"data_batch_3 .*mkdir is refused"):
        load_cifar10(root / "published")
    assert not trap.exists()


def test_restricted_unpickler_malicious_torch_file_is_refused_unrun(tmp_path):
    torch.save({"clean_label": MakesFolder(tmp_path / "trap")}, tmp_path / "CIFAR-10_human.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"CIFAR-10_human.pt .*mkdir is refused"):
        load_cifar10n(tmp_path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "call",
    [
        b"cbuiltins\neval\n",
        b"cos\nsystem\n",
        b"cnumpy\nload\n",
        b"\x8c\x05numpy\x8c\x0endarray.tofile\x93",
    ],
    ids=["eval", "system", "numpy.load", "method of ndarray"],
)
def test_restricted_unpickler_other_functions_are_refused(cifar10, call):
    root, _, _ = cifar10
    meta = root / "published/cifar-10-batches-py/batches.meta"
    meta.write_bytes(b"\x80\x04" + call + b"(U\x011tR.")
    with pytest.raises(pickle.UnpicklingError, match="only arrays are loaded"):
        load_cifar10(root / "published")


def test_torch_file_with_tensors_is_refused(tmp_path):
    torch.save({"clean_label": torch.arange(3)}, tmp_path / "CIFAR-10_human.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"CIFAR-10_human.pt could not be read"):
        load_cifar10n(tmp_path)


def test_cut_batch_names_its_file(cifar10):
    root, _, _ = cifar10
    batch = root / "published/cifar-10-batches-py/data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-1000])
    with pytest.raises(pickle.UnpicklingError, match="data_batch_2 could not be read"):
        load_cifar10(root / "published")


@pytest.mark.parametrize("layout", ["raw", "gz"])
@pytest.mark.parametrize("keep", [0, 3, 10, 50])
def test_cut_idx_file_names_its_file(mnist, layout, keep):
    root, _ = mnist
    (path,) = (root / layout / "MNIST/raw").glob("train-images*")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train-images.*get it again"):
        load_mnist(root / layout)


def test_cut_archives_name_their_file(cifar10):
    root, _, _ = cifar10
    for name, load in (("cifar10_test.zip", load_cifar10), ("CIFAR-10_human.pt", load_cifar10n)):
        content = (root / "compact/cifar10_test.zip").read_bytes()
        (root / "compact" / name).write_bytes(content[:1000])
        with pytest.raises(ValueError, match=f"{name} is not a whole zip archive"):
            load(root / "compact")
        (root / "compact" / name).write_bytes(content)


def test_zip_archive_that_torch_did_not_write_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "CIFAR-10_human.pt", "w") as archive:
        archive.writestr("labels.txt", "0 1 2")
    with pytest.raises(ValueError, match=r"not a file of torch\.save"):
        load_cifar10n(tmp_path)


def test_archive_with_a_missing_strip_is_refused(cifar10):
    root, X, y = cifar10
    path = root / "compact/cifar10_test.zip"
    with zipfile.ZipFile(path, "w") as archive:
        write_strips(archive, X[5 * N_BATCH : -1])
        write_npy(archive, "labels.npy", y[5 * N_BATCH :].astype(np.uint8))
    with pytest.raises(ValueError, match="3 images for 4 labels"):
        load_cifar10(root / "compact")


# ------------------------------------------------------------------ where files are looked for


@pytest.mark.parametrize(
    ("load", "looked_for", "where_from"),
    [
        (load_cifar10, "cifar10_train_a.zip and 2 more", "torchvision.datasets.CIFAR10"),
        (load_cifar100, "cifar-100-python/train and 2 more", "torchvision.datasets.CIFAR100"),
        (load_mnist, "MNIST/raw/train-images-idx3-ubyte.gz", "torchvision.datasets.MNIST"),
        (load_cifar10n, "CIFAR-10_human.pt", "github.com/UCSC-REAL/cifar-10-100n"),
        (load_cifar100n, "CIFAR-100_human.pt", "github.com/UCSC-REAL/cifar-10-100n"),
        (load_cifar10h, "cifar10h-counts.npy", "github.com/jcpeterson/cifar-10h"),
        (load_tinyimagenet_ood, "tinyimagenet32_ood.npz", "compact archive"),
    ],
)
def test_missing_files_error_says_what_and_where_from(tmp_path, load, looked_for, where_from):
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert looked_for in message
    assert where_from in message


def test_incomplete_layout_error_names_the_missing_file(cifar10):
    root, _, _ = cifar10
    (root / "compact/cifar10_train_b.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"or else cifar10_train_b.zip; "):
        load_cifar10(root / "compact")


def test_incomplete_first_layout_the_other_one_is_read(cifar10):
    root, _, y = cifar10
    shutil.copytree(root / "compact", root / "published", dirs_exist_ok=True)
    assert load_cifar10(root / "published").source.endswith("cifar-10-batches-py")
    (root / "published/cifar-10-batches-py/data_batch_4").unlink()
    data = load_cifar10(root / "published")
    assert data.source.endswith("published")
    np.testing.assert_array_equal(data.y_train, y[: 5 * N_BATCH])


def test_root_absent_environment_variable_then_data_folder(cifar10, monkeypatch):
    root, _, _ = cifar10
    monkeypatch.setenv("NOISYFIT_DATA", str(root / "compact"))
    assert load_cifar10().source == str(root / "compact")
    monkeypatch.delenv("NOISYFIT_DATA")
    monkeypatch.chdir(root)
    with pytest.raises(FileNotFoundError, match=r"/data'"):
        load_cifar10()
    (root / "compact").rename(root / "data")
    assert load_cifar10().X_train.shape == (20, 3, 32, 32)


# ------------------------------------------------------------------ image files


@pytest.fixture
def picture(tmp_path):
    """A PNG file 45 wide and 30 high, and its pixels (30, 45, 3)."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", pixels


def test_image_files_without_size_give_the_pixels(picture):
    path, pixels = picture
    images = ImageFiles([path, str(path)], y=["a", "b"])
    assert len(images) == 2
    assert images.y == ["a", "b"]
    for image in (images[0], images[np.int64(-1)]):
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))


def test_image_files_any_mode_becomes_rgb(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    images = ImageFiles([tmp_path / f"{mode}.png" for mode in ("grey", "alpha", "palette")])
    for image in (images[0], images[1], images[2]):
        np.testing.assert_array_equal(image.numpy(), np.stack([grey] * 3))


@pytest.mark.parametrize("size", [7, 16, 30, 41])
def test_image_files_int_size_equals_torchvision_resize_and_centre_crop(picture, size):
    path, _ = picture
    expected = Compose([Resize(size), CenterCrop(size)])(Image.open(path))
    image = ImageFiles([path], size=size)[0]
    np.testing.assert_array_equal(image.numpy(), np.asarray(expected).transpose(2, 0, 1))


def test_image_files_pair_size_equals_torchvision_resize(picture):
    path, _ = picture
    expected = Resize((12, 50))(Image.open(path))
    image = ImageFiles([path], size=(12, 50))[0]
    np.testing.assert_array_equal(image.numpy(), np.asarray(expected).transpose(2, 0, 1))


def test_image_files_one_pixel_is_a_tensor_of_its_own(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    image = ImageFiles([tmp_path / "dot.png"])[0]
    image += 1  # a view of Pillow's read-only memory would warn when it is made
    assert image.flatten().tolist() == [2, 3, 4]


def test_image_files_pickled_gives_the_same_images(picture):
    images = ImageFiles([picture[0]], size=8)
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again[0], images[0])
    assert repr(again) == "ImageFiles(1 paths, size=8)"


def test_image_files_in_a_data_loader_make_batches(picture):
    (batch,) = DataLoader(ImageFiles([picture[0]] * 3, size=8), batch_size=3)
    assert batch.shape == (3, 3, 8, 8)
    assert batch.dtype == torch.uint8


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "chunk length"])
def test_image_files_unreadable_error_names_the_file(picture, damage):
    path, _ = picture
    bad, content = path.with_name("bad one.png"), path.read_bytes()
    if damage != "missing":
        bad.write_bytes(
            {
                "empty": b"",
                "text": b"no image",
                "cut": content[:-200],
                "chunk length": content[:33] + b"\0\0\0\5" + content[37:],
            }[damage]
        )
    images = ImageFiles([path, bad])
    assert images[0].shape == (3, 30, 45)
    with pytest.raises(ValueError, match=r"image file '.*bad one\.png' could not be read"):
        images[1]


def test_image_files_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="sequence of paths"):
        ImageFiles("picture.png")
    with pytest.raises(TypeError, match="slice"):
        ImageFiles(["picture.png"])[:1]
    with pytest.raises(ValueError, match="2 labels for 1 paths"):
        ImageFiles(["picture.png"], y=[0, 1])
    for size in (0, -3, 2.5, (3,), (4, 0), "8"):
        with pytest.raises(ValueError, match="size must be a positive int"):
            ImageFiles(["picture.png"], size=size)


# ------------------------------------------------------------------ the real data, where it is


def real(load):
    """The real data set, or a skipped test where its folder is unknown or without it."""
    if "NOISYFIT_DATA" not in os.environ:
        pytest.skip("NOISYFIT_DATA does not name a folder with the data sets")
    try:
        return load()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_real_cifar10n_counts_are_the_published_ones():
    data = real(load_cifar10n)
    sets = ("aggre", "rand1", "rand2", "rand3", "worst")
    wrong = {name: data[name] != data.clean for name in sets}
    assert [int(w.sum()) for w in wrong.values()] == [4505, 8617, 9061, 8820, 20104]
    annotators = np.stack([wrong["rand1"], wrong["rand2"], wrong["rand3"]])
    assert np.bincount(annotators.sum(0)).tolist() == [29896, 14777, 4260, 1067]
    np.testing.assert_array_equal(wrong["worst"], annotators.any(0))
    assert np.mean(data.rand1 == data.rand2) == pytest.approx(0.71612)


def test_real_cifar100n_counts_are_the_published_ones():
    data = real(load_cifar100n)
    wrong, wrong_coarse = data.clean != data.noisy, data.clean_coarse != data.noisy_coarse
    assert (wrong.sum(), wrong_coarse.sum()) == (20100, 13202)
    assert np.mean(wrong & ~wrong_coarse) == pytest.approx(0.13796)


def test_real_cifar10_pixels_have_the_published_checksums():
    data, labels = real(load_cifar10), real(load_cifar10n)
    for X, expected in (
        (data.X_train, "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"),
        (data.X_test, "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"),
    ):
        rows_first = np.ascontiguousarray(X.transpose(0, 2, 3, 1))  # (n, 32, 32, 3)
        assert hashlib.sha256(rows_first).hexdigest() == expected
    np.testing.assert_array_equal(data.y_train, labels.clean)


def test_real_cifar100_labels_meet_the_human_labels():
    data, labels = real(load_cifar100), real(load_cifar100n)
    np.testing.assert_array_equal(data.y_train, labels.clean)
    np.testing.assert_array_equal(data.y_train_coarse, labels.clean_coarse)
    assert np.bincount(data.y_test).tolist() == [100] * 100


def test_real_mnist_pixels_have_the_published_checksums():
    data = real(load_mnist)
    assert hashlib.md5(idx_bytes(data.X_train[:, 0])).hexdigest() == (
        "6bbc9ace898e44ae57da46a324031adb"
    )
    assert hashlib.md5(idx_bytes(data.X_test[:, 0])).hexdigest() == (
        "2646ac647ad5339dbf082846283269ea"
    )
