"""Trees in HDF5 files: the one place that says how a `Tree` is written and read.

A tree is a flat mapping; paths are relative to the group that it is written to
(`/entry` for what a stage gives):

- `path`: a value: number, text, list of texts, array; None removes what is there;
- `path@name`: an attribute of what stands at `path` (`@name`: of the group itself);
- `path>`: a link to what stands at the path given as value, or, if the value is
  `file::path`, to an object of another file, relative to this one.

Groups on the way are made. In a path, `{slot}` stands for each of the slots
`slot_00`, `slot_01`...; a dataset `names` beside them gives them their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Tree = Mapping[str, Any]
SLOT = "{slot}"
NAMES = "names"
"""Dataset beside the slots: the name of each, empty where it has none."""
CHUNK_BYTES = 1 << 20
"""Bytes of a piece of an image."""
IMAGE_BYTES = 1 << 16
"""Arrays of two and more axes from this size on are compressed."""


def slot_name(number: int) -> str:
    """Return the name of the group of a slot: `slot_07`."""
    return f"slot_{number:02d}"


def expand(tree: Tree, slots: int) -> dict[str, Any]:
    """Return the tree with every `{slot}` entry written out for each slot."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        names = [slot_name(n) for n in range(slots)] if SLOT in key else [""]
        out.update({key.replace(SLOT, name): value for name in names})
    return out


def image_storage(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return how an array is stored: images in compressed pieces of whole rows.

    Shuffle and gzip, which every reader of HDF5 has: a sum of sparse frames
    shrinks 10 to 60 times, and the level beyond 1 gains little.
    """
    if len(shape) < 2 or np.prod(shape, dtype=float) * dtype.itemsize < IMAGE_BYTES:
        return {}
    row = int(np.prod(shape[1:])) * dtype.itemsize
    rows = min(max(CHUNK_BYTES // row, 1), shape[0])
    return {
        "chunks": (rows, *shape[1:]),
        "shuffle": True,
        "compression": "gzip",
        "compression_opts": 1,
    }


def write_tree(root: h5py.Group, tree: Tree) -> list[str]:
    """Write a tree below a group, replacing what is there; twice gives the same as once.

    Returns
    -------
    list of str
        For each entry that cannot be written, its key and why.
    """
    refused: list[str] = []
    for key, value in sorted(tree.items(), key=lambda entry: _turn(root, *entry)):
        try:
            _write_entry(root, key, value)
        except (KeyError, TypeError, ValueError) as error:
            refused.append(f"{key}: {error}")
    return refused


def _turn(root: h5py.Group, key: str, value: Any) -> int:
    """Return when an entry has its turn: links first, then values, attributes, other links."""
    if key.endswith(">"):
        return 0 if "::" in value or value in root else 3
    return 2 if "@" in key else 1


def _write_entry(root: h5py.Group, key: str, value: Any) -> None:
    path, at, name = key.partition("@")
    above = path
    while above := above.rpartition("/")[0]:
        if above in root and not isinstance(root[above], h5py.Group):
            raise ValueError(f"{above} is no group")
    if key.endswith(">"):
        if not _link(root, key[:-1], value):
            raise KeyError(f"there is no {value} to link to")
    elif not at:
        put_value(root, path, value)
    elif not path:
        put_attribute(root, name, value)
    else:
        put_attribute(root[path] if path in root else root.create_group(path), name, value)


def put_value(root: h5py.Group, path: str, value: Any) -> None:
    """Write a dataset; one that is there is overwritten or, in another form, replaced.

    Raises
    ------
    ValueError
        If a group stands there.
    """
    attributes: dict[str, Any] = {}
    if path in root and value is not None:
        if not isinstance(root[path], h5py.Dataset):
            raise ValueError("this is a group")
        if _overwrite(root[path], value):
            return
        attributes = dict(root[path].attrs)
    if root.get(path, getlink=True) is not None:
        del root[path]
    if value is None:
        return
    dataset = create_value(root, path, value)
    for name, attribute in attributes.items():
        dataset.attrs[name] = attribute


def create_value(root: h5py.Group, path: str, value: Any) -> h5py.Dataset:
    """Create a dataset with a value as `wire.plain` gives it."""
    if isinstance(value, str):
        return root.create_dataset(path, data=value, dtype=h5py.string_dtype())
    if isinstance(value, list):
        return root.create_dataset(path, data=np.array(value, object), dtype=h5py.string_dtype())
    array = np.asarray(value)
    array = array.astype(storage_type(array.dtype))
    return root.create_dataset(path, data=array, **image_storage(array.shape, array.dtype))


def storage_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type as stored: fixed-length text is UTF-8, the rest is as it is."""
    if dtype.kind == "S":
        dtype = h5py.string_dtype("utf-8", dtype.itemsize)
    return dtype


def put_attribute(item: h5py.Group | h5py.Dataset, name: str, value: Any) -> None:
    """Write one attribute; None removes it."""
    if value is None:
        item.attrs.pop(name, None)
    elif isinstance(value, list):
        item.attrs.create(name, np.array(value, object), dtype=h5py.string_dtype())
    else:
        item.attrs[name] = value


def _overwrite(dataset: h5py.Dataset, value: Any) -> bool:
    """Write a value of exactly the dataset's form into it; False if it has another."""
    if isinstance(value, str | list | None):
        return False
    array = np.asarray(value)
    if array.shape != dataset.shape or storage_type(array.dtype) != dataset.dtype:
        return False
    dataset[...] = array.astype(dataset.dtype)
    return True


def _link(root: h5py.Group, path: str, target: str) -> bool:
    """Make a link; False if its target is not there (yet)."""
    filename, external, inside = target.rpartition("::")
    if not external and target not in root:
        return False
    if root.get(path, getlink=True) is not None:
        if not external and path in root and root[path] == root[target]:
            return True
        del root[path]
    root[path] = h5py.ExternalLink(filename, inside) if external else root[target]
    return True


def name_slots(root: h5py.Group) -> list[str]:
    """Link named slots under their names and remove those that hold nothing, in a closed file.

    A slot holds nothing if its tables have no rows and nothing else links to it.

    Returns
    -------
    list of str
        Paths that were removed, from the file's root.
    """
    removed: list[str] = []
    for parent in _slot_parents(root):
        _link_names(parent)
        for slot in [name for name in parent if re.fullmatch(r"slot_\d\d", name)]:
            if _holds_nothing(parent[slot]):
                removed.append(parent[slot].name)
                del parent[slot]
    return removed


def _link_names(parent: h5py.Group) -> None:
    texts = parent[NAMES].asstr()[...] if NAMES in parent else []
    for number, name in enumerate(texts):
        slot = slot_name(number)
        fits = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name)
        if fits and slot in parent and name not in parent:
            parent[name] = parent[slot]


def _holds_nothing(slot: h5py.Group) -> bool:
    rows = (item.shape[0] for item in slot.values() if getattr(item, "shape", None))
    return h5py.h5o.get_info(slot.id).rc == 1 and not any(rows)


def _slot_parents(root: h5py.Group) -> list[h5py.Group]:
    found: list[h5py.Group] = []

    def look(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and slot_name(0) in item:
            found.append(item)

    root.visititems(look)
    return found


def read_tree(root: h5py.Group, most_bytes: int, most_objects: int = 10_000) -> dict[str, Any]:
    """Return what `write_tree` wrote, with nothing read from any other file.

    Raises
    ------
    ValueError
        If it claims more bytes or objects than allowed, or holds what no tree holds.
    """
    tree: dict[str, Any] = {}
    room = [most_bytes, most_objects]
    _read_group(root, "", tree, room)
    return tree


def _read_group(group: h5py.Group, path: str, tree: dict[str, Any], room: list[int]) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path}{name} is a link")
        item = group[name]
        for key, attribute in item.attrs.items():
            tree[f"{path}{name}@{key}"] = attribute
        if isinstance(item, h5py.Group):
            _spend(room, 0, f"{path}{name}")
            _read_group(item, f"{path}{name}/", tree, room)
        else:
            tree[f"{path}{name}"] = _read_dataset(item, f"{path}{name}", room)


def _read_dataset(dataset: h5py.Dataset, path: str, room: list[int]) -> Any:
    if dataset.is_virtual or dataset.external or dataset.shape is None:
        raise ValueError(f"{path} holds no values of its own")
    _spend(room, int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize, path)
    if h5py.check_string_dtype(dataset.dtype):
        text = dataset.asstr()[()]
        return text if isinstance(text, str) else text.tolist()
    if dataset.dtype.kind not in "biufc":
        raise ValueError(f"{path} is of type {dataset.dtype}")
    value: NDArray[Any] = dataset[()]
    return value if dataset.shape else value.item()


def _spend(room: list[int], nbytes: int, path: str) -> None:
    room[0] -= nbytes
    room[1] -= 1
    if min(room) < 0:
        raise ValueError(f"too large, at {path}")
