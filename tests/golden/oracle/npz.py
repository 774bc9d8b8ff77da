"""Writing .npz archives whose bytes depend on the arrays alone.

As numpy.savez_compressed, but entries are sorted by name and carry the date 1980-01-01.
"""

import io
import pathlib
import zipfile

import numpy as np
from numpy.typing import NDArray

DATE = (1980, 1, 1, 0, 0, 0)


def text(value: str) -> NDArray[np.uint8]:
    """A string as its UTF-8 bytes: readable without numpy's unicode types."""
    return np.frombuffer(value.encode(), dtype=np.uint8)


def save(path: pathlib.Path, arrays: dict[str, NDArray]) -> None:
    """Refuses what a golden file must not hold: float64, other wide types, non-finite values."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name]).reshape(np.shape(arrays[name]))
            if array.dtype not in (np.float32, np.int32, np.uint8):
                raise TypeError(f"{path.name}: {name} is {array.dtype}, want float32, int32, uint8")
            if not np.isfinite(array).all():
                raise ValueError(f"{path.name}: {name} is not finite")
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data.getvalue())
