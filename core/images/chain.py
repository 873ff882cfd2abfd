"""The image chain: one way for the frames of every detector.

Turned as the detector is mounted, passed through the detector's own pre-step
(none, a threshold, photon finding), then summed, looked at in regions of
interest and integrated into a powder pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ..frame import BadFrame, Frame, Series
from ..marks import Pixels, as_pixels, marks
from ..parameters import ParameterError
from ..positions import Position
from ..preview import Preview
from ..stage import Closing, Command, Forwarded, Output, Row, Settings, Stage, Tree
from . import chain_preview, pattern, roi, sums
from .beam import BeamWatch, counted, frame_counts
from .declaration import COMMANDS, GROUPS, INDIFFERENT, ChainParameters, chain_outputs
from .partial import QUANTITY, ChainPartial, turn
from .pattern import PowderPattern
from .series import RoiSeries
from .sums import FrameSum

P = TypeVar("P", bound=ChainParameters)
PONI_FILE = "geometry.poni"
"""Name of the file in which a device keeps its geometry for other programs."""


class ImageChain(Stage[P, ChainPartial]):
    """What is done to the images of every detector.

    The accumulated sum outlives series; ClearAccumulation empties it, and frames
    of another form do (shape, integer or float, orientation, unit), after it was
    saved. ROI values begin anew with each series. The pattern is that of the
    accumulated sum. The counts of the newest frames outlive series, too; what they
    are compared with is forgotten by ClearAccumulation, and when something else is
    counted (threshold, mask, exposure time, unit).
    """

    Parameters: ClassVar[type[ChainParameters]] = ChainParameters
    outputs: ClassVar[tuple[Output, ...]] = chain_outputs(np.float64)
    commands: ClassVar[tuple[Command, ...]] = COMMANDS
    groups: ClassVar[Mapping[str, Mapping[str, Any]]] = GROUPS
    indifferent: ClassVar[frozenset[str]] = INDIFFERENT
    """Parameters on which the counts of a frame do not depend."""
    pixel_types: ClassVar[tuple[DTypeLike, ...]] = (np.uint16,)
    """What the detector sends, to be compiled for beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self._parameters: Any = self.Parameters()
        self._version = -1
        self._series = Series(0)
        self._sum = FrameSum()
        self._beam = BeamWatch(self._parameters, self._parameters.history_frames)
        self._rois = RoiSeries(self._parameters)
        self._pattern = PowderPattern(self._parameters.azimuthal_bins)
        self._raw_shape: tuple[int, int] | None = None
        self._newest: ChainPartial | None = None
        self._aside = False
        self._preview: Preview | None = None

    # ------------------------------------------------- what detectors differ in

    def prepare(self, image: Pixels, parameters: P) -> Pixels:
        """Do the detector's pre-step to a turned image (rows, columns). Pure.

        Marks of the detector must stay marks (see `pixels`). Here: nothing.

        Raises
        ------
        BadFrame
            If the image cannot be used.
        """
        return image

    def meaning(self, parameters: P) -> list[str]:
        """Return what the value of a pixel depends on besides the detector, in words.

        Frames for which it differs are not added to one sum.
        """
        return [parameters.orientation.value]

    def photon(self, parameters: P, dtype: np.dtype[Any]) -> float:
        """Return what one photon adds to a pixel of such an image."""
        return 1.0

    # ------------------------------------------------------------ frame by frame

    def map(self, frame: Frame, parameters: P) -> ChainPartial:
        """Turn and prepare one frame and find the statistics of its ROIs."""
        turned = turn(frame, parameters)
        mask = parameters.mask_for(turned.shape)
        image = as_pixels(self.prepare(turned, parameters))
        return ChainPartial(image, mask, roi.statistics(image, mask, parameters.rois))

    def reduce(self, frame: Frame, partial: ChainPartial, settings: Settings) -> Row:
        """Add one frame to the sum and the curves."""
        if settings.version != self._version:
            self.adopt(settings)
        if frame.series.run_id != self._series.run_id:
            self.begin(frame.series, settings)
        if self._shape() != partial.image.shape:
            self._rois.forget_images()
        self._aside = False
        row = self.take(frame, partial)
        rows, columns = frame.shape
        self._raw_shape = rows, columns
        self._newest, self._preview = partial, None
        return row

    def take(self, frame: Frame, partial: ChainPartial) -> Row:
        """Add one frame to the sum and the curves."""
        added = self.add_to(self._sum, frame, partial)
        self._pattern.stale |= added
        counts = self._sum.newest if added else frame_counts(partial)
        form = counted(frame, partial, self._meaning_of(frame, partial))
        return {
            **self._beam.add(frame, counts, form),
            **self._rois.add(frame, partial.kept, partial.rois),
        }

    def set_aside(self, frame: Frame, partial: ChainPartial, bright: bool = False) -> Row:
        """Show a frame that belongs neither to the sum nor to the curves, here or elsewhere.

        It says nothing about the beam, unless it is too bright for them.
        """
        self._aside = True
        return {
            **(self._beam.add_bright(frame) if bright else self._beam.set_aside(frame)),
            **self._rois.add(frame, None, np.full_like(partial.rois, np.nan)),
        }

    def add_to(self, total: FrameSum, frame: Frame, partial: ChainPartial) -> bool:
        """Add one frame to a sum, if frames are summed at all; what gives way is saved first."""
        if not self._parameters.accumulate:
            return False
        meaning = self._meaning_of(frame, partial)
        before = total.add(partial.image, partial.mask, frame.series, meaning, partial.support)
        if before is not None:
            self.connection.save(sums.sum_document("", before, self._origin()))
        return True

    def _meaning_of(self, frame: Frame, partial: ChainPartial) -> list[str]:
        sent = str(frame.metadata.get(QUANTITY, ""))
        return [*self.meaning(self._parameters), *filter(None, (sent, partial.quantity))]

    def begin(self, series: Series, settings: Settings) -> None:
        """Begin a series: new curves, the same sum."""
        if settings.version != self._version:
            self.adopt(settings)
        self._series = series
        self._sum.begin()
        self._beam.history = self._parameters.history_frames
        self._rois.begin(series)

    def finish(self, series: Series) -> Closing:
        """End a series; its file gets both sums, the pattern, and the curves' x and steps."""
        ending, parameters = self._rois.finish(), self._parameters
        both, photon, other = self._sum.both(), self._photon(), self._other_tree()

        def tree() -> Tree:
            final = pattern.integrate(parameters, both and both[0], photon)
            return {
                **sums.series_tree(both),
                **other,
                **pattern.final_tree(final),
                **ending.tree(),
            }

        return Closing(ending.settled, tree)

    # ------------------------------------------------------------- what is asked

    def accept(self, parameters: P) -> None:
        """Refuse ROIs outside the frame, and files for other frames."""
        if not self._rois.has_room_for(parameters.rois):
            raise ParameterError("rois: the file of this series has no room for another ROI")
        if self._raw_shape is None:
            return
        old, shape = self._parameters, parameters.orientation.turned(self._raw_shape)
        changed = {n: one for n, one in parameters.rois.items() if old.rois.get(n) != one}
        for sentence in roi.outside(changed, shape):
            raise ParameterError(sentence)
        if parameters.poni_file != old.poni_file:
            parameters.check_shape(shape)
        if (parameters.mask_file, parameters.orientation) != (old.mask_file, old.orientation):
            try:
                parameters.mask_for(shape)
            except BadFrame as error:
                raise ParameterError(str(error)) from None

    def adopt(self, settings: Settings) -> None:
        """Take up new parameters."""
        new: Any = settings.parameters
        if self.meaning(new) != self.meaning(self._parameters):
            self._rois.forget_images()
        old, first = self._parameters, self._version < 0
        self._parameters, self._version = new, settings.version
        if first:
            self._rois = RoiSeries(new)
        self._beam.parameters = new
        if first or self._counting(old) != self._counting(new):
            self._beam.forget()
        self._rois.adopt(new)
        self._pattern.adopt(new)
        self._preview = None

    def _counting(self, parameters: P) -> dict[str, Any]:
        """Return the parameters on which the counts of a frame depend, and their comparison."""
        names = type(parameters).model_fields.keys() - self.indifferent
        return {name: getattr(parameters, name) for name in names}

    def position(self, position: Position) -> None:
        """Take a message of the positions stream."""
        self._rois.position(position)

    def handle(self, command: str, argument: Any) -> None:
        """Clear or save the sum."""
        match command:
            case "ClearAccumulation":
                self._sum.clear()
                self._beam.forget()
                self._pattern.stale = True
                self._preview = None
            case "SaveAccumulated":
                total = self._sum.running()
                if total is None or not total.frames:
                    raise ValueError("nothing is accumulated that could be saved")
                self.connection.save(sums.sum_document(argument or "", total, self._origin()))
            case _:
                super().handle(command, argument)

    # ------------------------------------------------------------- what is shown

    def value(self, name: str) -> Any:
        """Return the present value of an output; None for an image before the first frame."""
        image = None if self._newest is None else self._newest.image
        match name:
            case "image":
                return image
            case "accumulated_image" if not self._parameters.accumulate:
                return image
            case "geometry_valid":
                return self._parameters.geometry is not None
            case "poni":
                return self._poni()
            case "q_ring_lines":
                q_values = self._parameters.q_rings
                return pattern.ring_lines(self._parameters.geometry, q_values, self._shape())
        group, _, what = name.partition("_")
        if group == "preview":
            return getattr(self._made_preview(), what or "image")
        if group == "counts" or name == "beam":
            return self._beam.value(name)
        if group == "azimuthal":
            return getattr(self._pattern.pattern, what)
        return (self._rois if group == "roi" else self._sum).value(name)

    def forward(self) -> Forwarded | None:
        """Return the newest image after the pre-step; nothing for one that was set aside."""
        newest = self._newest
        if newest is None or self._aside:
            return None
        return Forwarded(newest.image, {QUANTITY: newest.quantity} if newest.quantity else {})

    def status(self) -> list[str]:
        """Return what an operator should know."""
        shape, parameters = self._shape(), self._parameters
        notes = self._beam.status()
        notes += [] if shape is None else roi.outside(parameters.rois, shape)
        notes += self._rois.status()
        if parameters.geometry_problem:
            notes.append(parameters.geometry_problem)
        sent = self._series.metadata.get("pixel_size")
        if isinstance(sent, float) and abs(sent - parameters.pixel_size) > 1e-3 * sent:
            notes.append(
                f"the stream says that pixels are {sent:g} m wide, pixel_size is "
                f"{parameters.pixel_size:g} m: write it if the pattern is to be right"
            )
        if self._sum.note:
            notes.append(self._sum.note)
        if not parameters.accumulate:
            notes.append("accumulation is off: the newest frame is shown")
        return notes

    def _shape(self) -> tuple[int, int] | None:
        """Return (rows, columns) of the newest image; None before the first."""
        if self._newest is None:
            return None
        rows, columns = self._newest.image.shape
        return rows, columns

    def _made_preview(self) -> Preview:
        """Return the preview of what is there now, made once."""
        if self._preview is None:
            self._preview = chain_preview.of_chain(self._newest, self._sum, self._parameters)
        return self._preview

    def _poni(self) -> str:
        geometry = self._parameters.geometry
        return geometry.to_poni(self._shape()) if geometry else ""

    # ------------------------------------------------------------- what is slow

    def warm_up(self) -> None:
        """Compile the kernels for the pixels that the detector sends; load the integrator."""
        for dtype in self.pixel_types:
            warm_up(dtype)
        pattern.warm_up()

    def deferred(self) -> Callable[[], Callable[[], None]] | None:
        """Return what is due: moved ROIs, gaps in the steps, the pattern."""
        jobs = self._rois.jobs()
        integration = self._pattern.due(self._parameters, self._sum.running, self._photon())
        if integration:
            jobs.append(integration)
        if not jobs:
            return None

        def work() -> Callable[[], None]:
            stores = [job() for job in jobs]

            def store() -> None:
                for each in stores:
                    each()

            return store

        return work

    def _photon(self) -> float:
        dtype = np.dtype(self.pixel_types[0]) if self._newest is None else self._newest.image.dtype
        return self.photon(self._parameters, dtype)

    # ------------------------------------------------------------- what is kept

    def update(self) -> Tree:
        """Return sums, pattern and names for the open file."""
        return {
            **sums.series_tree(self._sum.both()),
            **self._pattern.tree(),
            **self._rois.tree(),
            **self._other_tree(),
        }

    def kept_texts(self, parameters: P) -> Mapping[str, str]:
        """Return the PONI of a geometry that was set by values, not by a PONI file."""
        geometry = None if parameters.poni_file else parameters.geometry
        return {PONI_FILE: geometry.to_poni(self._shape()) if geometry else ""}

    def state(self) -> Tree | None:
        """Return the accumulated sum."""
        return self._sum.state()

    def restore(self, tree: Tree) -> None:
        """Go on with the accumulated sum of a checkpoint."""
        self._sum.restore(tree)
        self._pattern.stale = True
        self._preview = None

    def _other_tree(self) -> Tree:
        """Return the geometry and the mask for a file."""
        mask = None if self._newest is None else self._newest.mask
        masked = {} if mask is None else {"process/mask": mask.astype(np.uint8)}
        return {"geometry/poni": self._poni(), **masked}

    def _origin(self) -> Tree:
        """Return what tells where a sum comes from."""
        place = "instrument/detector"
        return {
            "instrument@NX_class": "NXinstrument",
            f"{place}@NX_class": "NXdetector",
            f"{place}/local_name": self._series.detector,
            **{f"{place}/{axis}_pixel_size": self._parameters.pixel_size for axis in "xy"},
            **{f"{place}/{axis}_pixel_size@units": "m" for axis in "xy"},
            **self._other_tree(),
        }


def warm_up(dtype: DTypeLike) -> None:
    """Compile every kernel of the chain for one type of pixels."""
    clean = as_pixels(np.zeros((2, 2), dtype))
    marked = as_pixels(clean + marks(clean.dtype).overflow)
    total, rois = FrameSum(), {"all": roi.Roi(x=0, y=0, width=2, height=2)}
    for image in (clean, marked, marked):
        total.add(image, None, Series(0), [])
        roi.statistics(image, None, rois)
    chain_preview.warm_up(marked)
