"""The file formats behind the data sets: pickled arrays, IDX, image strips."""

import codecs
import gzip
import io
import pickle
import zipfile
import zlib

import numpy as np

from noisyfit.images import read_rgb


def _dtype(kind, align=False, copy=False):
    # Python 2 wrote 0 and 1, of which NumPy 2.4.0 to 2.4.4 warn
    return np.dtype(kind, bool(align), bool(copy))


# What a pickled array calls when it is loaded, by the names that NumPy 1 and NumPy 2 write.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_FROM_BUFFER = np.empty(0).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): codecs.encode,
}


class ArrayUnpickler(pickle.Unpickler):
    """Loads plain containers of NumPy arrays; refuses every other function or class by name."""

    def find_class(self, module, name):
        """Return one of the few functions that rebuild arrays."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is refused, only arrays are loaded")
        return _ALLOWED[module, name]


def read_pickle(path):
    """Return the containers and arrays of a pickle file, written by Python 2 or 3."""
    with open(path, "rb") as file:
        return _unpickled(file, path)


def read_torch_pickle(path):
    """Return the containers and arrays in a file of `torch.save` that holds no tensors."""
    with open_archive(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"{path} is not a file of torch.save: {len(names)} data.pkl inside.")
        return _unpickled(io.BytesIO(archive.read(names[0])), path)


def read_idx(path):
    """Return the uint8 array of an IDX file, gzipped or not.

    Four bytes `0, 0, 8, n_dims`, then every dimension as a big-endian uint32, then the entries.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} could not be unpacked: {error}; get it again.") from error
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes; get it again.")
    shape = np.frombuffer(content[4:start], ">u4").astype(int)
    if len(content) != start + shape.prod():
        raise ValueError(f"{path} should hold {shape.prod()} entries but is cut; get it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def open_archive(path):
    """Open a zip archive for reading."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a whole zip archive: {error}; get it again.") from error


def read_strips(archive, prefix=""):
    """Return the images (n, 3, w, w) that a zip archive holds as strips, one above the other."""
    names = sorted(
        name
        for name in archive.namelist()
        if name.startswith(prefix) and name.endswith((".webp", ".jpg"))
    )
    return np.concatenate([_strip(archive.read(name)) for name in names])


def read_array(archive, name):
    """Return the array of an .npy member of a zip archive."""
    return np.load(io.BytesIO(archive.read(name)))


def _strip(content):
    strip = np.asarray(read_rgb(io.BytesIO(content)))  # (n * w, w, 3)
    width = strip.shape[1]
    return np.ascontiguousarray(strip.reshape(-1, width, width, 3).transpose(0, 3, 1, 2))


def _unpickled(file, path):
    try:
        # latin1 keeps the bytes of arrays that Python 2 wrote as strings
        return ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise pickle.UnpicklingError(f"{path} could not be read: {error}.") from error
