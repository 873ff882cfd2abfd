"""The source `stins+tcp://host:port` and `stins+ipc://path`: a detector's stream, live."""

from __future__ import annotations

from .base import UrlError, source
from .parsing import split_url
from .stins_reader import StinsReader
from .zmq_source import ZmqSource, zmq_address

SCHEMES = ("stins+tcp", "stins+ipc")
EXPECTED = {
    "pull": "PUSH socket of ZeroMQ: if it publishes, SourceUrl needs ?socket=sub",
    "sub": "PUB socket of ZeroMQ: if it pushes, SourceUrl must be without socket=sub",
}
"""What socket should be there, and what to do if it is of another kind, by that of ours."""


def endpoint(url: str, sockets: tuple[str, str]) -> tuple[str, dict[str, str]]:
    """Return ZeroMQ's address and the options of a `stins+...` URL.

    Parameters
    ----------
    url
        `stins+tcp://host:port` or `stins+ipc://path`, with `?socket=` and `detector=`.
    sockets
        Kinds of socket allowed, the default first.

    Raises
    ------
    UrlError
        If the URL has another form.
    """
    if url.partition(":")[0] not in SCHEMES:
        raise UrlError(f"{url}: not of the form {' or '.join(SCHEMES)}://...")
    rest, options = split_url(url, {"socket": sockets, "detector": ()})
    return zmq_address(url, rest), options


@source(*SCHEMES)
class StinsSource(ZmqSource):
    """Connects to a detector's PUSH or PUB socket and drains it.

    `?socket=pull` (the default) or `sub`; `detector=NAME` names the detector.
    """

    def __init__(self, url: str) -> None:
        address, options = endpoint(url, ("pull", "sub"))
        kind = options["socket"]
        super().__init__(url, address, kind == "sub", EXPECTED[kind])
        self._detector = options["detector"]

    def reader(self) -> StinsReader:
        """Return what makes events of the messages, from the first one on."""
        return StinsReader(self._detector)
