"""Frames in, reduced data out: no Tango, no Qt; usable from a notebook."""
