"""Text from outside: JSON of bounded size, alone or before pixels, and the options in a URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from .base import UrlError

MAX_JSON = 16 << 20
"""Longest JSON text taken, in bytes."""
MAX_PARTS = 64
"""Most parts taken of one message."""
MAX_HEAD = 1 << 16
"""Longest first part taken, in bytes: what it says waits with its frame."""


def json_object(text: bytes | memoryview, most: int = MAX_JSON) -> dict[str, Any]:
    """Return the JSON object in a message of at most so many bytes.

    Raises
    ------
    ValueError
        If it is too long or no JSON object; the sentence goes on after "a message that".
    """
    if len(text) > most:
        raise ValueError(f"has {len(text)} bytes of JSON, more than {most}")
    try:
        content = json.loads(bytes(text))
    except (ValueError, RecursionError):
        raise ValueError(f"is no JSON: {bytes(text[:40])!r}") from None
    if not isinstance(content, dict):
        raise ValueError(f"is no JSON object: {bytes(text[:40])!r}")
    return content


def message_head(parts: Sequence[bytes | memoryview]) -> dict[str, Any]:
    """Return the JSON object that a message of several parts begins with.

    Raises
    ------
    ValueError
        In one sentence, if there are too many parts, none, or no such object.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ValueError(f"a message has {len(parts)} parts, not 1 to {MAX_PARTS}")
    try:
        return json_object(parts[0], MAX_HEAD)
    except ValueError as error:
        raise ValueError(f"a message {error}") from None


def split_url(url: str, known: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, str]]:
    """Split `scheme:[//]rest?name=value&...` into the rest and its options.

    Parameters
    ----------
    url
        As the operator wrote it.
    known
        Allowed options with their allowed values, the default first; none
        listed: any text, by default empty.

    Returns
    -------
    rest, options
        Every known option is in `options`.

    Raises
    ------
    UrlError
        If an option or its value is unknown.
    """
    rest, _, query = url.partition(":")[2].removeprefix("//").partition("?")
    options = {name: values[0] if values else "" for name, values in known.items()}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise UrlError(f"{url}: unknown option {name!r}; known are {', '.join(known)}")
        if known[name] and value not in known[name]:
            raise UrlError(f"{url}: {name} is {value!r}, not one of {', '.join(known[name])}")
        options[name] = value
    return rest, options
