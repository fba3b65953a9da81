"""A log that a server keeps: a storage over Arrow Flight. See ``docs/server.md``."""
