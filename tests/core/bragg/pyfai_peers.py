"""What pyFAI keeps of a frame, by its own engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ronda.tests.core.bragg.sparsifying import PlainRings

Picked = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Index of the pixels kept, average, deviation."""


def context() -> Any:
    """Return an OpenCL context that compiles; PoCL does not on processors newer than itself."""
    cl = pytest.importorskip("pyopencl")
    why = "there is no OpenCL platform"
    try:
        for platform in cl.get_platforms():
            made = cl.Context(platform.get_devices())
            cl.Program(made, "kernel void nothing(global int *out) { out[0] = 0; }").build()
            return made
    except cl.Error as error:
        why = f"OpenCL does not work here: {error!s:.120}"
    return pytest.skip(why)


def matrix(rings: PlainRings) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the rings as pyFAI's sparse matrix."""
    on_ring = np.flatnonzero(rings.ring < rings.bins)
    order = on_ring[np.argsort(rings.ring[on_ring], kind="stable")]
    count = np.bincount(rings.ring[on_ring], minlength=rings.bins)
    pointer = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    return np.ones(order.size, np.float32), order.astype(np.int32), pointer


def by_opencl(image: NDArray[Any], rings: PlainRings, model: str) -> Picked:
    """Sparsify as sparsify-Bragg does."""
    made = context()
    from pyFAI.opencl.peak_finder import OCL_PeakFinder

    engine = OCL_PeakFinder(
        matrix(rings), image.size, bin_centers=rings.centres.astype(np.float32),
        radius=rings.radius, empty=0.0, ctx=made, block_size=8,
    )  # fmt: skip
    found = engine.sparsify(
        image, error_model=model, cutoff_clip=0.0, cycle=5, noise=1.0, cutoff_pick=3.0
    )
    return np.sort(found.index), found.background_avg, found.background_std


def by_python(image: NDArray[Any], rings: PlainRings, model: str) -> Picked:
    """Clip with pyFAI's engine in Python; the threshold of sparsify-Bragg on top."""
    from pyFAI.engines.CSR_engine import CsrIntegrator1d

    engine = CsrIntegrator1d(image.size, matrix(rings), bin_centers=rings.centres)
    clip = "azimuthal" if model == "hybrid" else model
    found = engine.sigma_clip(
        image.astype(np.float32), error_model=clip, cutoff=0.0, cycle=5, dummy=-9, delta_dummy=0.1
    )
    average, deviation = found.intensity, found.std
    if model == "hybrid":
        # As in OpenCL, which this engine lacks: Poisson's deviation of what is left.
        left = (engine.preprocessed.reshape(-1, 4)[:, 3] > 0) & (rings.ring < rings.bins)
        variance = np.maximum(image.ravel()[left], 1)
        sums = np.bincount(rings.ring[left], variance, minlength=rings.bins)
        deviation = np.sqrt(sums / np.bincount(rings.ring[left], minlength=rings.bins))
    radius = rings.radius.astype(np.float64).ravel()
    distance = 3 * np.hypot(np.interp(radius, rings.centres, deviation), 1)
    with np.errstate(invalid="ignore"):
        over = image.ravel() - np.interp(radius, rings.centres, average) > distance
    return np.flatnonzero(over), average, deviation


def jaccard(left: NDArray[Any], right: NDArray[Any]) -> float:
    union = np.union1d(left, right).size
    return np.intersect1d(left, right).size / union if union else 1.0
