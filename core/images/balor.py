"""The chain of a Balor: single photons, found in every frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..frame import BadFrame, Encoded, Frame, Series
from ..marks import Mask, Pixels, Rectangle, as_pixels
from ..parameters import ParameterError
from ..stage import Closing, Command, Forwarded, Kind, Output, Row, Settings, Tree, registry
from . import detection, roi
from .cmos import COUNTS, CmosChain, CmosPartial, camera_outputs, nothing
from .dark import Dark
from .detection import Detection
from .hot import LEAST, MOST_FRAMES, HotPixelSearch, Occupancy, keep_hot_pixels
from .partial import ChainPartial
from .photon_parameters import BalorParameters, CleanImage
from .photons import Candidates, Cuts, Hits, find_photons
from .sums import FrameSum, sum_tree

ENOUGH = 100
"""Photons from which on the double fraction is taken seriously."""
LAST_FRAME = np.iinfo(np.uint32).max
"""Highest number of a frame in the photon table."""
FORMAT = "photons"


_TYPE: dict[CleanImage, np.dtype[Any]] = {
    CleanImage.COUNTS: np.dtype(np.uint16),
    CleanImage.ENERGY: np.dtype(np.float32),
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BalorPartial(CmosPartial):
    """One frame of a Balor after `map`."""

    found: Candidates | Hits | None = None
    """Its candidates, or how many hits are too many; None: not looked for."""


OUTPUTS = (
    Output(
        "fallback_image",
        Kind.IMAGE,
        label="Frames without photons",
        doc="Sum of the frames with too many hits, thresholded; photon frames are never in it.",
        axes=("row", "column"),
    ),
    Output(
        "hot_pixels_missing",
        Kind.SCALAR,
        np.int64,
        doc="Frames that are still looked at for hot pixels.",
    ),
)
COMMANDS = (
    Command(
        "FindHotPixels",
        "Look for pixels that are hit too often in the next frames; those found are left out, "
        "together with those known already.",
        int,
        f"Number of frames, {LEAST} to {MOST_FRAMES}.",
    ),
)


@registry.register
class BalorStage(CmosChain[BalorParameters]):
    """Finds single photons in Balor frames and goes on with a clean image of them.

    Without analysis_roi, hit_threshold or photon_sum_min frames are thresholded
    as those of a Zyla. Counts, histogram and photon table begin anew with each
    series. Frames with too many hits are thresholded and summed apart; their ROI
    values are NaN. What outlives a series and what empties the sum: see
    `ImageChain`; so does a change between photons and counts.
    """

    name = "balor"
    title = "Balor photon finder"
    Parameters = BalorParameters
    outputs = (*camera_outputs(np.float32), *OUTPUTS, *detection.OUTPUTS)
    commands = (*CmosChain.commands, *COMMANDS)
    groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {**CmosChain.groups, **detection.GROUPS}
    pixel_types = (np.uint16,)
    indifferent = CmosChain.indifferent | {
        "double_fraction_limit",
        "histogram_width",
        "republish_photons",
        "trusted",
        "save_raw",
    }

    def __init__(self) -> None:
        super().__init__()
        self._detection = self._new_detection()
        self._fallback = FrameSum()
        self._search = HotPixelSearch()

    def _new_detection(self) -> Detection:
        return Detection(self._parameters.histogram_width, self._parameters.history_frames)

    # ------------------------------------------------------------ frame by frame

    def map(self, frame: Frame, parameters: BalorParameters) -> ChainPartial:
        """Find the photons of one frame and make its clean image."""
        region = parameters.analysis
        if region is None or not parameters.detects:
            return super().map(frame, parameters)
        image, mask, dark, misfit = self.prepared(frame, parameters)
        if parameters.noise_sigmas is not None and (dark is None or dark.rms is None):
            return self.thresholded(parameters, image, mask, dark, misfit)
        if region[1] > image.shape[0] or region[3] > image.shape[1]:
            raise BadFrame(_outside(parameters.analysis_roi, image.shape))
        if frame.frame_id > LAST_FRAME:
            raise BadFrame(f"the photon table has no room for a number over {LAST_FRAME}")
        found = self._find(image, mask, dark, region, parameters)
        if not isinstance(found, Candidates):
            clean = parameters.correction(dark, image, parameters.threshold).subtracted(image)
            nothing = np.full((len(parameters.rois), len(roi.STATISTICS)), np.nan)
            return BalorPartial(clean, mask, nothing, COUNTS, dark=dark, misfit=misfit, found=found)
        what = parameters.clean_image
        photons = _shown(found, region, parameters.view_sum_min).tobytes()
        compact = Encoded(photons, image.shape, _TYPE[what], FORMAT)
        try:
            clean, support = as_pixels(compact.decode()), compact.support
        except ValueError as error:
            raise BadFrame(f"there is no clean image: {error}") from None
        values = roi.statistics(clean, mask, parameters.rois)
        return BalorPartial(
            clean, mask, values, _quantity(parameters), compact, support,
            dark=dark, misfit=misfit, found=found,
        )  # fmt: skip

    def _find(
        self,
        image: Pixels,
        mask: Mask | None,
        dark: Dark | None,
        region: Rectangle,
        parameters: BalorParameters,
    ) -> Candidates | Hits:
        gain = parameters.gain
        threshold = (parameters.hit_threshold or 0.0) * gain
        correction = parameters.correction(dark, image, threshold, parameters.noise_sigmas)
        cuts = Cuts(parameters.photon_sum_min or 0.0, parameters.photon_sum_max)
        densest = parameters.hit_density_limit / 100
        return find_photons(image, mask, correction, region, cuts, gain, densest)

    def take(self, frame: Frame, partial: ChainPartial) -> Row:
        """Add one frame to what it belongs to."""
        found = partial.found if isinstance(partial, BalorPartial) else None
        if found is None or self.recording:
            return {"detection_frame": frame.frame_id, **super().take(frame, partial)}
        if isinstance(found, Candidates):
            self._search.add(found.pixel, partial.image.shape)
            return {**super().take(frame, partial), **self._detection.add(frame, found)}
        self.add_to(self._fallback, frame, partial)
        row = self.set_aside(frame, partial, bright=True)
        return {**row, **self._detection.add_fallback(frame, found)}

    def begin(self, series: Series, settings: Settings) -> None:
        """Begin a series: new counts, another histogram, an empty table."""
        super().begin(series, settings)
        self._detection = self._new_detection()

    def adopt(self, settings: Settings) -> None:
        """Take up new parameters."""
        super().adopt(settings)
        self._detection.rebin(self._parameters.histogram_width)

    def accept(self, parameters: BalorParameters) -> None:
        """Refuse an analysis ROI or hot pixels that are not on the frame."""
        super().accept(parameters)
        if self._raw_shape is None:
            return
        region, old = parameters.analysis, self._parameters
        shape = parameters.orientation.turned(self._raw_shape)
        if parameters.hot_pixel_file != old.hot_pixel_file:
            try:
                parameters.mask_for(shape)
            except BadFrame as error:
                raise ParameterError(str(error)) from None
        same = (region, parameters.orientation) == (old.analysis, old.orientation)
        if region is None or same:
            return
        if region[1] > shape[0] or region[3] > shape[1]:
            raise ParameterError(_outside(parameters.analysis_roi, shape))

    def photon(self, parameters: BalorParameters, dtype: np.dtype[Any]) -> float:
        """Return what one photon adds to a clean image of energies, about; else 1."""
        least = parameters.photon_sum_min
        if dtype.kind != "f" or least is None:
            return 1.0
        return (least + parameters.photon_sum_max) / 2

    def handle(self, command: str, argument: Any) -> None:
        """Clear or look for hot pixels, or what the chain does."""
        match command:
            case "FindHotPixels":
                if self.connection.folder is None:
                    raise ValueError("there is no folder to keep a list in: set StateDirectory")
                if not self._parameters.detects:
                    raise ValueError(_unset(self._parameters))
                self._search.start(argument)
            case "ClearAccumulation":
                self._fallback.clear()
                super().handle(command, argument)
            case _:
                super().handle(command, argument)

    # ------------------------------------------------------------- what is shown

    def value(self, name: str) -> Any:
        """Return the present value of an output."""
        match name:
            case "fallback_image":
                return self._fallback.value("accumulated_image")
            case "hot_pixels_missing":
                return self._search.missing
        if name in _DETECTED:
            return self._detection.value(name)
        return super().value(name)

    def forward(self) -> Forwarded | None:
        """Return the newest clean image; nothing for a frame with too many hits."""
        forwarded, newest = super().forward(), self._newest
        if forwarded is None or newest is None or not self._parameters.republish_photons:
            return forwarded
        return replace(forwarded, image=newest.kept)

    def status(self) -> list[str]:
        """Return what an operator should know."""
        notes = super().status()
        newest, sigmas = self._newest, self._parameters.noise_sigmas
        if not self._parameters.detects:
            notes.insert(0, _unset(self._parameters))
        elif sigmas and newest is not None and not isinstance(newest, BalorPartial):
            notes.insert(
                0,
                "photons are not looked for, frames are thresholded only: noise_sigmas needs the "
                "noise of a recorded dark that fits the frames",
            )
        if self._search.missing:
            notes.insert(0, f"hot pixels are looked for: {self._search.missing} frames to come")
        return notes

    def alarms(self) -> list[str]:
        """Return what is wrong with the photons."""
        sentences, parameters = super().alarms(), self._parameters
        found = self._newest.found if isinstance(self._newest, BalorPartial) else None
        if isinstance(found, Hits) and not isinstance(found, Candidates):
            sentences.append(
                f"too many hits to tell photons apart: {100 * found.density:.2g} % of the pixels "
                f"where {parameters.hit_density_limit:g} % is the limit; frames are thresholded "
                "and summed apart: attenuate the beam"
            )
        fraction, limit = self._detection.double_fraction, parameters.double_fraction_limit
        if self._detection.photons >= ENOUGH and fraction > limit:
            sentences.append(
                f"{fraction:.2g} % of the photons are double where {limit:g} % is the limit: "
                "attenuate the beam"
            )
        return sentences

    # ------------------------------------------------------------- what is slow

    def warm_up(self) -> None:
        """Compile the kernels for the pixels that the detector sends."""
        super().warm_up()
        for dtype in self.pixel_types:
            image = as_pixels(np.full((5, 5), 100, dtype))
            parameters = BalorParameters(analysis_roi="0,0,5,5")
            for limit in (100.0, 1e-9):
                parameters = parameters.changed({"hit_density_limit": limit})
                self.map(Frame(self._series, 0, image + np.eye(5, dtype=dtype) * 999), parameters)

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        """Return what is due: a list of hot pixels, and what the camera has."""
        camera_work, found = super().deferred(), self._search.take()
        if found is None:
            return camera_work

        def work() -> Callable[[], None]:
            self._problem = self._leave_out(found)
            return camera_work() if camera_work else nothing

        return work

    def _leave_out(self, found: Occupancy) -> str:
        """Keep a list of hot pixels, with those known, and put it in use; return what failed."""
        folder, parameters = self.connection.folder, self._parameters
        assert folder is not None
        try:
            hot = found.hot(parameters.hot_pixels)
            path = keep_hot_pixels(hot, folder, parameters.hot_pixel_file)
            self.connection.configure({"hot_pixel_file": str(path)})
        except (OSError, ValueError) as error:
            return f"the list of hot pixels cannot be kept: {error}"
        return ""

    # ------------------------------------------------------------- what is kept

    def finish(self, series: Series) -> Closing:
        """End a series; its file gets the histogram, too."""
        closing, histogram, fallback = super().finish(series), self._detection.tree(), self._apart()
        return Closing(closing.settled, lambda: {**closing.tree(), **histogram, **fallback})

    def update(self) -> Tree:
        """Return what the open file needs."""
        return {**super().update(), **self._detection.tree()}

    def state(self) -> Tree | None:
        """Return the sums."""
        own, apart = super().state(), self._fallback.state()
        if own is None and apart is None:
            return None
        return {**(own or {}), **{f"fallback/{name}": v for name, v in (apart or {}).items()}}

    def restore(self, tree: Tree) -> None:
        """Go on with the sums of a checkpoint."""
        place = "fallback/"
        apart = {name.removeprefix(place): tree[name] for name in tree if name.startswith(place)}
        own = {name: value for name, value in tree.items() if not name.startswith(place)}
        if own:
            super().restore(own)
        if apart:
            self._fallback.restore(apart)

    def _apart(self) -> Tree:
        """Return the sum of the frames with too many hits for a file."""
        total = None if self._fallback.empty else self._fallback.running()
        if total is None:
            return {}
        about = {"@NX_class": "NXdata", "@signal": "sum", "@title": "Frames without photons"}
        return {**{f"fallback{k}": v for k, v in about.items()}, **sum_tree("fallback", total)}


_DETECTED = {output.name for output in detection.OUTPUTS}


def _quantity(parameters: BalorParameters) -> str:
    """Return what the value of a clean pixel is, in words."""
    if parameters.clean_image is CleanImage.COUNTS:
        return "photons"
    return f"photon energy in counts of gain {parameters.gain:g}"


def _unset(parameters: BalorParameters) -> str:
    names = ", ".join(parameters.unset)
    return f"photons are not looked for, frames are thresholded only: set {names}"


def _shown(found: Candidates, region: Rectangle, least: float) -> NDArray[np.void]:
    """Return the photons of the clean image, as `codecs.PHOTON` records.

    A centre of gravity may lie beyond the region (pixels less dark may be negative);
    the photon is then shown at the region's edge.
    """
    photons = found.photons(max(least, found.cuts.least))
    top, bottom, left, right = region
    photons["y"] = np.clip(photons["y"], top, bottom - 1)
    photons["x"] = np.clip(photons["x"], left, right - 1)
    return photons


def _outside(text: str, shape: tuple[int, ...]) -> str:
    return (
        f"analysis_roi: {text} is not wholly on the frame of {shape[1]} x {shape[0]} pixels; "
        "set it to a part of the frame"
    )
