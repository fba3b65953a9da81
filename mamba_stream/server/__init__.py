"""The log on the network: a server that speaks Arrow Flight. See ``docs/server.md``."""
