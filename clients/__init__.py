"""Taurus panels, Sardana macros and the command line: what people use."""
