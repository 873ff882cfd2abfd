"""Where and how numbers are crunched."""
