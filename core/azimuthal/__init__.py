"""Azimuthal reduction: integration of powder patterns."""
