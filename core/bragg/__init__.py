"""Bragg spots of single crystals: kept pixels, peaks, and the files that hold them."""
