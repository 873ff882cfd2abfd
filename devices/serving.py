"""`ServingDevice`: reads that belong together, and events, of whatever a device serves."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tango
from tango import DevState, GreenMode
from tango.server import Device, DeviceMeta

from .condition import INITIALISING
from .notify import watchdog
from .pushing import pusher, same
from .served import Events, Served

log = logging.getLogger(__name__)


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
    properties_problem = ""
    """Why the properties are not those of the database, in one sentence."""
    _properties_known = False

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
        self._arrays_due = 0.0
        for name in ("State", "Status"):
            self.set_change_event(name, True, False)
            self.set_archive_event(name, True, False)

    def get_device_properties(self, ds_class: Any = None) -> None:
        """Read the properties; Init while the database is away keeps those that are known."""
        self.properties_problem = ""
        try:
            super().get_device_properties(ds_class)
        except tango.DevFailed as error:
            if not self._properties_known:
                raise
            self.properties_problem = (
                "the Tango database did not answer at Init: properties are as they were before; "
                "Init again when it is back"
            )
            log.warning("%s: %s", self.get_name(), error.args[0].desc)
        self._properties_known = True

    def begin_to_serve(self) -> None:
        """Begin to push events."""
        self.latched = self.snapshot(())
        self.show_written()
        pusher.add(self)
        watchdog.watch(self)

    def delete_device(self) -> None:
        """Push no more."""
        watchdog.leave(self)
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
            if one.events is Events.SCALAR and (heard := self._heard(one.name)):
                value = one.value(snapshot)
                if self._changed(one.name, value):
                    self._push(one.name, heard, value)
                    self._pushed[one.name] = value

    def push_slow(self) -> None:
        """Push State, Status and arrays that changed; arrays only while somebody listens."""
        self.refresh()
        condition = self.condition
        # Tango pushes State and Status as they are set
        self.set_state(condition.state)
        self.set_status(condition.status)
        for name, value in (("State", condition.state), ("Status", condition.status)):
            if self._changed(name, value):
                self._push(name, self._heard(name))
                self._pushed[name] = value
        begin = time.monotonic()
        if begin >= self._arrays_due:
            self._push_arrays()
            # making them holds up the reduction: a fifth of the time at most
            self._arrays_due = time.monotonic() + 4 * (time.monotonic() - begin)

    def _push_arrays(self) -> None:
        """Push the arrays that changed and that somebody listens to."""
        arrays = [one for one in self.served.values() if one.events is Events.ARRAY]
        heard = [one for one in arrays if self._heard(one.name)]
        if not heard:
            return
        snapshot = self.snapshot([one.output for one in heard if one.output])
        for one in heard:
            value = one.value(snapshot)
            # an empty array of numbers kills a listener that is a server itself (cppTango 10.3.3)
            empty = isinstance(value, np.ndarray) and not value.size
            if self._changed(one.name, value) and not empty:
                self.push_change_event(one.name, value)
                self._pushed[one.name] = value

    def _heard(self, name: str) -> list[Any]:
        """Return how an attribute is pushed to those who listen: as change, for archives."""
        attribute = self.get_device_attr().get_attr_by_name(name)
        pushes = []
        if attribute.change_event_subscribed():
            pushes.append(self.push_change_event)
        if attribute.archive_event_subscribed():
            pushes.append(self.push_archive_event)
        return pushes

    def _changed(self, name: str, value: Any) -> bool:
        """Tell whether a value differs from the last one that was pushed."""
        return name not in self._pushed or not same(self._pushed[name], value)

    @staticmethod
    def _push(name: str, pushes: list[Any], *value: Any) -> None:
        for push in pushes:
            push(name, *value)
