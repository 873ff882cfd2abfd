"""Error models: where the variance of a pixel comes from."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .formula import Formula


class ErrorModel(Enum):
    """Where the variance of a pixel comes from.

    `poisson` takes the counts themselves: their sum over a ring is the unbiased
    variance of that sum at any count rate. `poisson-classic` is pyFAI's Poisson
    model: at least 1 in each pixel, which overrates the errors below one count
    per pixel. `azimuthal` takes the scatter of the pixels about the mean of
    their ring. `hybrid` clips by azimuthal scatter and tells Poisson's errors.
    """

    NONE = "none"
    POISSON = "poisson"
    POISSON_CLASSIC = "poisson-classic"
    AZIMUTHAL = "azimuthal"
    HYBRID = "hybrid"

    @property
    def floor(self) -> float | None:
        """Least variance of a pixel whose counts are its variance; None where they are not."""
        if self in (ErrorModel.POISSON, ErrorModel.HYBRID):
            return 0.0
        return 1.0 if self is ErrorModel.POISSON_CLASSIC else None

    def __str__(self) -> str:
        return self.value


def parse_error_model(text: str) -> ErrorModel | Formula:
    """Return the error model of a name, or a formula.

    Parameters
    ----------
    text
        The beginning of a model's name, in any case (`poisson` rather than
        `poisson-classic` where both fit; empty: none), or a formula of I.

    Raises
    ------
    ValueError
        In one sentence, if it is neither.
    """
    name = text.strip().lower()
    for model in ErrorModel:
        if model.value.startswith(name):
            return model
    if "I" in text:
        from .formula import Formula  # NumPy, which --help does not wait for

        return Formula(text)
    names = ", ".join(model.value for model in ErrorModel)
    raise ValueError(
        f"{text!r} is no error model: it is one of {names}, or a formula of the counts I as 5*I+8"
    )
