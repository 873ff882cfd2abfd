"""The command line `ronda`."""
