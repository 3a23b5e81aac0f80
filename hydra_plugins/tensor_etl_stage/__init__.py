"""Plugins of Hydra, which imports every module here whenever it starts: they import nothing heavy."""
