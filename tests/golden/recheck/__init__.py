"""Checks of committed golden files with numpy alone: a second pair of eyes on the oracle."""
