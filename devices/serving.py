"""`ServingDevice`: reads that belong together, and events, of whatever a device serves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from tango import DevState, GreenMode
from tango.server import Device, DeviceMeta

from .condition import INITIALISING
from .pushing import pusher, same, same_array
from .served import Events, Served


class ServingMeta(DeviceMeta):
    """Makes a class's attributes from what it lists in `served`."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> ServingMeta:
        """Make a device class."""
        listed: Mapping[str, Served[Any]] = namespace.get("served", {})
        attributes = {one.name: one.attribute() for one in listed.values()}
        made: ServingMeta = super().__new__(cls, name, bases, {**attributes, **namespace})
        return made


class ServingDevice(Device, metaclass=ServingMeta):
    """A device whose values of one request all come from one snapshot.

    A subclass lists its attributes in `served`, makes snapshots, and keeps
    `condition` up to date.
    """

    green_mode = GreenMode.Synchronous
    served: ClassVar[Mapping[str, Served[Any]]] = {}

    @abstractmethod
    def snapshot(self, outputs: Collection[str]) -> Any:
        """Return everything that attributes show, with these outputs, of one moment."""

    @abstractmethod
    def refresh(self) -> None:
        """Make `condition` anew."""

    @abstractmethod
    def write(self, served: Served[Any], written: Any) -> None:
        """Apply what was written to an attribute."""

    def init_device(self) -> None:
        """Begin with nothing to show; a subclass goes on with `begin_to_serve`."""
        super().init_device()
        self.condition = INITIALISING
        self.latched: Any = None
        self._pushed: dict[str, Any] = {}
        for name in ("State", "Status"):
            self.set_change_event(name, True, False)
            self.set_archive_event(name, True, False)

    def begin_to_serve(self) -> None:
        """Begin to push events."""
        self.latched = self.snapshot(())
        self.show_written()
        pusher.add(self)

    def delete_device(self) -> None:
        """Push no more."""
        pusher.remove(self)
        super().delete_device()

    # --------------------------------------------------------------- reading

    def read_attr_hardware(self, attr_list: Sequence[int]) -> None:
        """Take one snapshot for all attributes of a request."""
        attributes = self.get_device_attr()
        names = [attributes.get_attr_by_ind(index).get_name() for index in attr_list]
        served = [self.served[name] for name in names if name in self.served]
        self.latched = self.snapshot([one.output for one in served if one.output])

    def dev_state(self) -> DevState:
        """Return the state that was last made; never waits."""
        return self.condition.state

    def dev_status(self) -> str:
        """Return the status that was last made; never waits."""
        return self.condition.status

    def show_written(self) -> None:
        """Have Tango show what is set as what was last written, whoever set it."""
        snapshot = self.snapshot(())
        attributes = self.get_device_attr()
        for one in self.served.values():
            if one.changes:
                attributes.get_w_attr_by_name(one.name).set_write_value(one.value(snapshot))

    # ---------------------------------------------------------------- events

    def push_scalars(self) -> None:
        """Push the scalars that changed."""
        snapshot = self.snapshot(())
        for one in self.served.values():
            if one.events is Events.SCALAR:
                self._push(one.name, one.value(snapshot))

    def push_slow(self) -> None:
        """Push State, Status, and the arrays that somebody listens to."""
        self.refresh()
        condition = self.condition
        # Tango pushes State and Status as they are set
        self.set_state(condition.state)
        self.set_status(condition.status)
        self._push("State", condition.state)
        self._push("Status", condition.status)
        attributes = self.get_device_attr()
        heard = [
            one
            for one in self.served.values()
            if one.events is Events.ARRAY
            and attributes.get_attr_by_name(one.name).change_event_subscribed()
        ]
        if heard:
            snapshot = self.snapshot([one.output for one in heard if one.output])
            for one in heard:
                self._push_array(one.name, one.value(snapshot))

    def _push_array(self, name: str, value: Any) -> None:
        """Push an array if it changed."""
        if name in self._pushed and same_array(self._pushed[name], value):
            return
        self._pushed[name] = value
        # an empty array of numbers kills a listener that is a server itself (cppTango 10.3.3)
        if not isinstance(value, np.ndarray) or value.size:
            self.push_change_event(name, value)

    def _push(self, name: str, value: Any) -> None:
        """Push a scalar if it changed, to those who listen."""
        if name in self._pushed and same(self._pushed[name], value):
            return
        self._pushed[name] = value
        attribute = self.get_device_attr().get_attr_by_name(name)
        pushed = () if name in ("State", "Status") else (value,)
        if attribute.change_event_subscribed():
            self.push_change_event(name, *pushed)
        if attribute.archive_event_subscribed():
            self.push_archive_event(name, *pushed)
