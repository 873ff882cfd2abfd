"""What FemtoMAX does to images: accumulation, ROI series, one chain for all detectors."""
