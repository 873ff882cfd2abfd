"""Where reduced data goes beside the live values: NeXus files, and streams for the next stage."""
