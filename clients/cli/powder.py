"""A simulated scan of a powder, as a recording: what the demo replays where no real one is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
from numpy.typing import NDArray

from ...core.positions import Position, ScanEnd, ScanPoint, ScanStart
from ...core.simulation import simulate_powder
from ...core.sources.recording import RECORD, SELF_DESCRIBED, STREAM
from ...core.sources.replay import sardana_document
from ...core.sources.stins import encode_end, encode_header, encode_image

MOTOR = "sample_x"
POSITIONS = (1.0, 1.25, 1.5, 1.75, 2.0)
"""Of the sample in mm, one for each point of the scan."""
FRAMES_PER_POINT = 6
BEAM = (1.5, 0.3)
"""Centre of the beam, and its standard deviation, in mm."""
RAW_NAME = "/simulated/scan-000001_pilatus.h5"
TYPES = {ScanStart: "DataDescription", ScanPoint: "RecordData", ScanEnd: "RecordEnd"}


def write_powder(path: Path) -> None:
    """Write the recording of a LaB6 powder that is moved through the beam.

    It has the form of dranspose's recordings (`ronda.core.sources.recording`): the
    streams `pilatus` and `sardana`, 5 points of 6 frames.
    """
    random = np.random.default_rng(6)
    powder = simulate_powder(len(POSITIONS) * FRAMES_PER_POINT)
    with gzip.open(path, "wb", compresslevel=1) as file:
        start = ScanStart(1, (MOTOR,), f"ascan {MOTOR} 1.0 2.0 4")
        _record(file, 0, pilatus=encode_header(0, RAW_NAME), sardana=_documents(start))
        for number, frame in enumerate(powder.frames):
            point, nth = divmod(number, FRAMES_PER_POINT)
            x = POSITIONS[point]
            share = float(np.exp(-(((x - BEAM[0]) / BEAM[1]) ** 2) / 2))
            streams: dict[str, list[Any]] = {
                "pilatus": encode_image(number + 1, number, thinned(frame, share, random))
            }
            if nth == FRAMES_PER_POINT - 1:
                measured = ScanPoint(point, {MOTOR: x}, FRAMES_PER_POINT)
                streams["sardana"] = _documents(measured)
            _record(file, number + 1, **streams)
        last = len(powder.frames) + 1
        _record(file, last, pilatus=encode_end(last), sardana=_documents(ScanEnd()))


def thinned(
    frame: NDArray[np.float32], share: float, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return a frame (rows, columns) in keV with this share of its hit pixels; marks stay."""
    gone = (frame > 0) & (random.random(frame.shape, np.float32) > share)
    return np.where(gone, np.float32(0), frame)


def _documents(position: Position) -> list[bytes]:
    """Return the sardana stream's message for a scan record."""
    _, document = sardana_document(position)
    return [json.dumps({**document, "type": TYPES[type(position)]}).encode()]


def _record(file: gzip.GzipFile, event_number: int, **streams: list[Any]) -> None:
    """Write what happened at one trigger event."""
    kinds = {"pilatus": "STINS", "sardana": "sardana"}
    content = {
        name: cbor2.CBORTag(STREAM, [kinds[name], [bytes(part) for part in parts]])
        for name, parts in streams.items()
    }
    record = cbor2.CBORTag(RECORD, [event_number, content])
    file.write(cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, record)))
