"""How a map stands in a file: NXdata whose axes are named by what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..azimuthal.units import Unit
from ..stage import Record, Tree
from .layer import Layer
from .measurement import Measurement
from .outputs import (
    COUNTS,
    GROUPS,
    MEAN,
    MOTOR_GRID,
    OUTPUTS,
    PATTERNS,
    PLACES,
    RECONSTRUCTION,
    RESULT,
    SCAN,
    SINOGRAMS,
)
from .parameters import DiffTomoParameters, SlowAxis
from .reconstruction import reconstruct
from .scan import MotorGrid
from .sinogram import WHOLE
from .tomogram import ENTRIES, Tomogram

Floats = NDArray[np.float64]
PATHS = {each.name: each.path for each in OUTPUTS if each.record is Record.CELL}
CONFIGURATION = "pyFAI/configuration"
OTHER_RESULT = "pyFAI/result_2"
"""Where a map stands that is of another form than the one that the file began with."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One axis of the map."""

    name: str
    values: Floats
    units: str
    """Empty: the values are numbers of positions."""

    def tree(self, group: str) -> Tree:
        """Return it as it stands in a group."""
        place = f"{group}/{self.name}"
        named = self.name.capitalize()
        said = f"{named} ({self.units})" if self.units else f"{named} number"
        tree: dict[str, Any] = {place: self.values, f"{place}@long_name": said}
        return {**tree, f"{place}@units": self.units} if self.units else tree


@dataclass(frozen=True, slots=True)
class MapAxes:
    """Where the positions of a map are."""

    rotation: Coordinate
    translation: Coordinate
    angles: Floats
    """Of the rotation, in deg, whether or not they are known."""

    @classmethod
    def of(cls, parameters: DiffTomoParameters, motors: MotorGrid | None) -> MapAxes:
        """Return the axes as the motors had them, or else as they are set."""
        rotations, translations = parameters.grid.shape
        turns = parameters.slow_axis is SlowAxis.ROTATION
        slow = _values(parameters.rotation_range, rotations)
        fast = _values(parameters.translation_range, translations)
        if motors is not None:
            slow, fast = motors.rotation.values, motors.translation.values
        unit = parameters.translation_unit
        half_turn = 180 * np.arange(rotations) / rotations
        return cls(
            _coordinate("rotation" if turns else "slow", slow, rotations, "deg" if turns else unit),
            _coordinate("translation" if turns else "fast", fast, translations, unit),
            half_turn if slow is None else slow,
        )


def _values(ends: list[float], count: int) -> Floats | None:
    return np.linspace(ends[0], ends[1], count) if ends else None


def _coordinate(name: str, values: Floats | None, count: int, units: str) -> Coordinate:
    if values is None:
        return Coordinate(name, np.arange(count, dtype=np.float64), "")
    return Coordinate(name, values, units)


def axes_tree(group: str, tomogram: Tomogram, axes: MapAxes, unit: Unit) -> Tree:
    """Return the axes of a map in its group."""
    tree = {
        **axes.rotation.tree(group),
        **axes.translation.tree(group),
        **_radial(group, tomogram, unit),
    }
    names = [axes.rotation.name, axes.translation.name, unit.quantity]
    if tomogram.azimuthal is not None:
        place = f"{group}/azimuthal"
        tree |= {
            place: tomogram.azimuthal,
            f"{place}@units": "deg",
            f"{place}@long_name": "Azimuth (deg)",
        }
        names.insert(2, "azimuthal")
    shown = "spectrum" if tomogram.azimuthal is None else "image"
    if tomogram.azimuthal is not None and group == RESULT:
        tree |= {
            **axes.rotation.tree(PATTERNS),
            **axes.translation.tree(PATTERNS),
            **_radial(PATTERNS, tomogram, unit),
            f"{PATTERNS}@NX_class": "NXdata",
            f"{PATTERNS}@signal": "intensity",
            f"{PATTERNS}@axes": [axes.rotation.name, axes.translation.name, unit.quantity],
            f"{PATTERNS}@title": "Patterns in one dimension",
        }
    return {
        **tree,
        f"{group}@axes": names,
        f"{group}/intensity@interpretation": shown,
        **({f"{group}/errors@interpretation": shown} if tomogram.errors else {}),
        **({f"{PLACES}@columns": list(ENTRIES)} if group == RESULT else {}),
        f"{group}/map_ptr@interpretation": "image",
        f"{group}/map_ptr@long_name": "Frame number of each position; -1: not measured",
    }


def _radial(group: str, tomogram: Tomogram, unit: Unit) -> dict[str, Any]:
    place = f"{group}/{unit.quantity}"
    return {
        place: tomogram.radial,
        f"{place}@units": unit.units,
        f"{place}@long_name": unit.label,
    }


def derived_tree(tomogram: Tomogram, axes: MapAxes, unit: Unit) -> Tree:
    """Return the sinograms and the mean pattern of a map."""
    sinograms = tomogram.sinograms
    others = [name for name in sinograms if name != WHOLE]
    tree = {
        **axes.rotation.tree(SINOGRAMS),
        **axes.translation.tree(SINOGRAMS),
        **{f"{SINOGRAMS}/{name}": values for name, values in sinograms.items()},
        f"{SINOGRAMS}@axes": [axes.rotation.name, axes.translation.name],
        f"{MEAN}/intensity": tomogram.mean,
        **_radial(MEAN, tomogram, unit),
        f"{MEAN}@axes": [unit.quantity],
    }
    return {**tree, f"{SINOGRAMS}@auxiliary_signals": others} if others else tree


def _origin(tomogram: Tomogram) -> Tree:
    """Return how the patterns were made."""
    return {
        f"{CONFIGURATION}@NX_class": "NXnote",
        f"{CONFIGURATION}/type": "application/json",
        f"{CONFIGURATION}/data": tomogram.origin,
    }


def reconstruction_tree(image: Floats, axes: MapAxes, name: str) -> Tree:
    """Return a cross-section, whose axes count from the rotation axis."""
    values = axes.translation.values
    step = float(values[1] - values[0]) if values.size > 1 else 1.0
    place = (np.arange(image.shape[0]) - (image.shape[0] - 1) / 2) * step
    units = axes.translation.units
    return {
        f"{RECONSTRUCTION}@NX_class": "NXdata",
        f"{RECONSTRUCTION}@signal": "image",
        f"{RECONSTRUCTION}@axes": ["y", "x"],
        f"{RECONSTRUCTION}@title": f"Cross-section from the sinogram {name}",
        f"{RECONSTRUCTION}/image": image,
        **Coordinate("y", place, units).tree(RECONSTRUCTION),
        **Coordinate("x", place, units).tree(RECONSTRUCTION),
    }


def form_of(tomogram: Tomogram | None, parameters: DiffTomoParameters) -> tuple[Any, ...]:
    """Return what a map must have in common with a file to go into it.

    One that was emptied meanwhile does not, so that the file keeps what was there.
    """
    if tomogram is None:
        return ()
    azimuthal = b"" if tomogram.azimuthal is None else tomogram.azimuthal.tobytes()
    radial = tomogram.radial.tobytes()
    meaning = json.dumps(parameters.meaning)
    form = (tomogram.shape, tomogram.errors, azimuthal, radial, meaning, parameters.slow_axis)
    return tomogram.identity, form


def whole(group: str, tomogram: Tomogram, filled: bool = True) -> dict[str, NDArray[Any]]:
    """Return the map whole, below a group; not copied. Unless `filled`, shapes count alone."""
    return {**_layer(group, tomogram.layer, filled), f"{group}/map_ptr": tomogram.frame}


def _layer(group: str, layer: Layer, filled: bool = True) -> dict[str, NDArray[Any]]:
    intensity, sigma = layer.arrays(None if filled else ())
    arrays: dict[str, NDArray[Any]] = {f"{group}/intensity": intensity}
    if sigma is not None:
        arrays[f"{group}/errors"] = sigma
    if layer.numbers is not None:
        arrays[f"{group}/numbers"] = layer.numbers
    return arrays


def whole_file(
    tomogram: Tomogram, axes: MotorGrid | None, filled: bool = True
) -> dict[str, NDArray[Any]]:
    """Return all cells of a file: the map whole, and what it needs to be gone on with."""
    arrays = whole(RESULT, tomogram, filled)
    if tomogram.cakes is not None:
        arrays |= _layer(PATTERNS, tomogram.patterns, filled)
    ends = np.full((2, 2), np.nan) if axes is None else axes.ends
    return {**arrays, PLACES: tomogram.entries(), MOTOR_GRID: ends}


def all_cells(
    tomogram: Tomogram, axes: MotorGrid | None, filled: bool
) -> dict[str, tuple[int, ...] | NDArray[Any]]:
    """Return the cells of a file that begins: what they hold, or their shapes alone.

    Numbers of frames have a place too if there are none: they may be needed later.
    """
    arrays = whole_file(tomogram, axes, filled)
    shapes = {path: array.shape for path, array in arrays.items()}
    for group in (RESULT, PATTERNS):
        if f"{group}/intensity" in shapes:
            shapes[f"{group}/numbers"] = shapes[f"{group}/intensity"]
    return {**shapes, **(arrays if filled else {})}


def _counts(now: Measurement) -> Tree:
    counts = {name: now.counts[kind] for name, kind in COUNTS.items()}
    return {
        f"{SCAN}/points_measured": now.measured,
        f"{SCAN}/points_missing": now.missing,
        f"{SCAN}/frames_waiting": len(now.placing.waiting),
        **{f"{SCAN}/{name}": count for name, count in counts.items()},
    }


def open_tree(
    now: Measurement,
    tomogram: Tomogram,
    parameters: DiffTomoParameters,
    axes: MapAxes,
    form: tuple[Any, ...] | None,
) -> Tree:
    """Return what an open file of a form needs besides the cells of its frames."""
    tree = {**_counts(now)}
    if form not in (None, form_of(tomogram, parameters)):
        return tree
    moved, now.moved = now.moved, False
    return {
        **tree,
        **axes_tree(RESULT, tomogram, axes, parameters.unit),
        **derived_tree(tomogram, axes, parameters.unit),
        **_origin(tomogram),
        **(whole_file(tomogram, now.placing.axes) if moved else {}),
    }


def late_cells(now: Measurement) -> Tree:
    """Return the cells of places that changed with no frame, by path."""
    return {PATHS[name]: cells for name, cells in now.cells().items()}


def final_tree(
    now: Measurement, parameters: DiffTomoParameters, form: tuple[Any, ...] | None
) -> Tree:
    """Return the last values for a file of a form."""
    tomogram = now.tomogram
    if tomogram is None:
        return {}
    axes = MapAxes.of(parameters, now.placing.axes)
    now.moved = now.rearranged
    tree = {**open_tree(now, tomogram, parameters, axes, form)}
    tree[f"{MEAN}/intensity"] = tomogram.whole_mean()
    if form in (None, form_of(tomogram, parameters)):
        tree = {**late_cells(now), **tree}
    else:
        tree |= {
            **axes_tree(OTHER_RESULT, tomogram, axes, parameters.unit),
            **derived_tree(tomogram, axes, parameters.unit),
            **_origin(tomogram),
            **whole(OTHER_RESULT, tomogram),
            **{f"{OTHER_RESULT}@{name}": value for name, value in GROUPS[RESULT].items()},
            "@default": OTHER_RESULT,
        }
    if parameters.reconstruct:
        image = reconstruction(tomogram, parameters, axes)()
        tree |= reconstruction_tree(image, axes, parameters.sinogram_of)
    return tree


def reconstruction(
    tomogram: Tomogram, parameters: DiffTomoParameters, axes: MapAxes
) -> Callable[[], Floats]:
    """Return the calculation of the cross-section that the sinogram shown is of."""
    sinogram = tomogram.sinogram(parameters.sinogram_of)
    window, centre = parameters.reconstruction_filter, parameters.rotation_centre
    return lambda: reconstruct(sinogram, axes.angles, centre, window)
