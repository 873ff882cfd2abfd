"""Diffraction tomography: powder patterns of a scan in two axes, each in its place."""
