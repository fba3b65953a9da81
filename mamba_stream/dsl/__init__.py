"""Streams, windows, running: thin verbs that build plan nodes."""
