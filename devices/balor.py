"""`BalorPhotonDetector`: the Tango device of a Balor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tango import DevState
from tango.server import device_property

from ..core.images.balor import BalorStage
from .imaging import ImagingDevice
from .raw_saving import RawSaving


class BalorPhotonDetector(ImagingDevice, stage=BalorStage):
    """Finds the single photons in the frames of a Balor ("photon finder").

    It writes them to a table, serves their energy histogram and counts, and goes on
    with a clean image of them, as PilatusAccumulator does with its frames. Without
    analysis_roi frames are thresholded as those of a Zyla.
    """

    DetectorDevice = device_property(
        str,
        "Tango name of the detector's own device, whose SaveRaw follows save_raw while all is "
        "well; empty: none.",
        default_value="",
    )

    def init_device(self) -> None:
        """Build the runner, and look after the detector's raw saving."""
        self._raw_saving: RawSaving | None = None
        super().init_device()
        self._raw_saving = RawSaving(
            self.DetectorDevice, self._wants_raw, lambda: self.runner.in_series
        )

    def delete_device(self) -> None:
        """Have raw frames saved again, then let go of everything."""
        if self._raw_saving:
            self._raw_saving.close()
        super().delete_device()

    def _wants_raw(self) -> bool:
        """Tell whether raw frames are to be saved: unless photons are trusted and all is well."""
        parameters: Any = self.runner.settings.parameters
        spare = parameters.trusted and not parameters.save_raw and parameters.detects
        return not (spare and self.condition.state is DevState.RUNNING)

    def forget_problems(self) -> None:
        """Forget what there was to complain about."""
        super().forget_problems()
        if self._raw_saving:
            self._raw_saving.reset()

    def notes(self) -> Iterator[str]:
        """Yield what else the device itself has to say."""
        yield from super().notes()
        if self._raw_saving and self._raw_saving.state:
            yield self._raw_saving.state

    def complaints(self) -> Iterator[str]:
        """Yield what the device itself has to complain about."""
        yield from super().complaints()
        if self._raw_saving and self._raw_saving.problem:
            yield self._raw_saving.problem
