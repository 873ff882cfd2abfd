"""Changes that a SWMR file allows: new values in what exists, in the same form.

Numbers in attributes are among them [measured: one changed a hundred times a
second beside two readers, and through 60 kills: no reader and no file harmed].
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from .tables import fitted


def modify(item: h5py.Group | h5py.Dataset, name: str, value: Any) -> bool:
    """Write a value into a dataset, or into its attribute of this name, in an open SWMR file.

    Returns
    -------
    bool
        False, with nothing changed, if it has to wait until SWMR has ended.
    """
    if name:
        return _modify_attribute(item, name, value)
    if value is None or not isinstance(item, h5py.Dataset):
        return False
    if isinstance(value, str | list):
        return _modify_text(item, [value] if isinstance(value, str) else value)
    return _modify_numbers(item, np.asarray(value))


def _modify_attribute(item: h5py.Group | h5py.Dataset, name: str, value: Any) -> bool:
    """Overwrite a number; text would move, which readers do not survive."""
    if name not in item.attrs or isinstance(value, str | list | None):
        return False
    old, new = np.asarray(item.attrs[name]), np.asarray(value)
    if old.shape != new.shape or old.dtype.kind not in "biuf":
        return False
    fit = fitted(new, old.dtype)
    if fit is not None:
        item.attrs.modify(name, fit)
    return fit is not None


def _modify_numbers(dataset: h5py.Dataset, new: np.ndarray[Any, Any]) -> bool:
    """Overwrite an array, or the first rows of a table."""
    if dataset.dtype.kind not in "biufc" or new.dtype.kind not in "biufc":
        return False
    fit = fitted(new, dataset.dtype)
    if fit is None:
        return False
    if fit.shape == dataset.shape:
        dataset[...] = fit
        return True
    table = dataset.ndim > 0 and dataset.maxshape[0] is None
    if not table or fit.shape[1:] != dataset.shape[1:] or not 0 < len(fit) < len(dataset):
        return False
    dataset[: len(fit)] = fit
    return True


def _modify_text(dataset: h5py.Dataset, texts: list[str]) -> bool:
    """Overwrite fixed-length texts; fewer than there are places leave empty ones."""
    form = h5py.check_string_dtype(dataset.dtype)
    encoded = [text.encode() for text in texts]
    if form is None or form.length is None or dataset.ndim > 1 or len(texts) > dataset.size:
        return False
    if max(map(len, encoded), default=0) > form.length:
        return False
    padded = np.array(encoded + [b""] * (dataset.size - len(encoded)), dataset.dtype)
    dataset[...] = padded.reshape(dataset.shape)
    return True
