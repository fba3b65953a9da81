"""``mamba-stream completion``: the script that teaches a shell to complete the command."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash: eval "$(mamba-stream completion bash)"      in ~/.bashrc
    zsh:  eval "$(mamba-stream completion zsh)"       in ~/.zshrc
    fish: mamba-stream completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from mamba_stream.cli import command

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(command, {}, "mamba-stream", "_MAMBA_STREAM_COMPLETE").source())
