"""Set-ups that ship with Ronda: Tango databases, demo, example parameters."""
