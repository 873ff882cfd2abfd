"""What the demo does with each detector: how its device is set up, and what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tango

from ...core.simulation import FEMTOMAX, lab6_lines
from .. import pictures

TRUTH = "balor-truth.h5"
"""What the simulated Balor frames really hold, in the demo's folder."""
Q_MAX = 6.1
"""Rings are drawn up to here, in 1/angstrom."""

Pictures = Mapping[str, Callable[[Path, Path], None]]
"""By file name: functions that draw a file of Ronda's as a picture."""


@dataclass(frozen=True, slots=True)
class Part:
    """One detector of `config/demo.json`, and the device that reduces its frames."""

    name: str
    rate: float
    """Frames a second: slow enough to watch."""
    settings: Mapping[str, object]
    """What is written to the device's attributes."""
    rois: tuple[str, ...]
    pictures: Callable[[Path], Pictures]
    """Returns what is drawn, given the demo's folder."""

    @property
    def detector(self) -> str:
        """Tango name of the detector."""
        return f"demo/detector/{self.name}"

    @property
    def device(self) -> str:
        """Tango name of the device that reduces."""
        return f"demo/reduction/{self.name}"

    def set_up(self, detector: tango.DeviceProxy, device: tango.DeviceProxy) -> None:
        """Tell the detector how fast it is, and the device what to do."""
        detector.rate = self.rate
        for name, value in self.settings.items():
            setattr(device, name, value)
        for roi in self.rois:
            device.AddRoi(roi)

    def draw(self, folder: Path) -> list[Path]:
        """Draw what was measured; return the file and its pictures."""
        files = sorted(folder.glob(f"scan-*_{self.name}.h5"))
        if not files:
            return []
        pictures = self.pictures(folder)
        for name, draw in pictures.items():
            draw(files[-1], folder / name)
        return [files[-1], *(folder / name for name in pictures)]


def _pilatus_pictures(folder: Path) -> Pictures:
    return {
        "pilatus-accumulated.png": pictures.draw_accumulated,
        "pilatus-pattern.png": pictures.draw_azimuthal,
        "pilatus-rois.png": pictures.draw_rois,
        "pilatus.png": pictures.draw_file,
    }


def _zyla_pictures(folder: Path) -> Pictures:
    return {"zyla.png": pictures.draw_file}


def _balor_pictures(folder: Path) -> Pictures:
    truth = folder / TRUTH
    return {
        "balor-photons.png": partial(pictures.draw_photons, truth=truth),
        "balor-histogram.png": partial(pictures.draw_histogram, truth=truth),
    }


PARTS = (
    Part(
        "pilatus",
        3.0,
        {
            "photon_energy": FEMTOMAX.photon_energy,
            "detector_distance": FEMTOMAX.detector_distance,
            "beam_center_x": FEMTOMAX.beam_center_x,
            "beam_center_y": FEMTOMAX.beam_center_y,
            "q_rings": lab6_lines(Q_MAX)[0],
        },
        (
            "background=390,430,25,40",
            "ring_100=360,300,30,80;background=background",
            "ring_110=435,300,35,80;background=background",
        ),
        _pilatus_pictures,
    ),
    Part(
        "zyla",
        2.0,
        {"dark_file": "simulated:zyla?frames=10&dark=yes"},
        ("background=100,100,200,200", "peak=924,924,200,200;background=background"),
        _zyla_pictures,
    ),
    Part(
        "balor",
        1.0,
        {"analysis_roi": "0,0,4128,4104", "dark_file": "simulated:balor?frames=5&dark=yes"},
        (),
        _balor_pictures,
    ),
)
