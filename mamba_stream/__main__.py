"""``python -m mamba_stream``: the command, where the script is not on the path."""

from mamba_stream.cli import main

main()
