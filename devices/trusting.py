"""`TrustingDevice`: a device that may do without its detector's raw frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tango import DevState
from tango.server import device_property

from .imaging import ImagingDevice
from .raw_saving import RawSaving


class TrustingDevice(ImagingDevice):
    """A device whose stage has the parameters `trusted` and `save_raw`.

    While both say so and all is well, the detector's own device saves no raw frames.
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
            self.DetectorDevice,
            lambda: not (self.spares_raw() and self._is_well()),
            lambda: self.runner.in_series,
        )

    def delete_device(self) -> None:
        """Have raw frames saved again, then let go of everything."""
        if self._raw_saving:
            self._raw_saving.close()
        super().delete_device()

    def _is_well(self) -> bool:
        """Tell whether nothing went wrong; after a crash that is so from Reset on."""
        return self.condition.state is DevState.RUNNING and not self.went_on

    def spares_raw(self) -> bool:
        """Tell whether raw frames need not be saved, if all is well."""
        parameters: Any = self.runner.settings.parameters
        return bool(parameters.trusted and not parameters.save_raw)

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
