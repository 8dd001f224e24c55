"""Kills and faults: what a run survives, as tables."""
