"""Vectorised steps over frames: they know no clock, no log, no thread and no plan."""
