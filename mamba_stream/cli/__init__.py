"""The command ``mamba-stream``: finds the subcommand, runs it, turns errors into one line and an exit code.

Nothing heavy is imported here: every subcommand is a module of its own that is loaded when it is named, and
imports Polars, Arrow and the engine inside its functions, so that ``--help`` and completion answer at once.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from mamba_stream import __version__

FAILED, USAGE, NOT_FOUND, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 4, 130
"""Exit codes beside 0; 130 is the shells' own for Ctrl-C."""

COMMANDS = (
    "demo",
    "init",
    "topic",
    "schema",
    "produce",
    "consume",
    "publish",
    "subscribe",
    "group",
    "dlq",
    "stats",
    "serve",
    "run",
    "job",
    "user",
    "access",
    "maintain",
    "doctor",
    "backup",
    "copy",
    "restore",
    "config",
    "bench",
    "completion",
)
"""Each is a module here with a command of the same name in it, in the order of ``--help``."""


class Commands(click.Group):
    """A group whose subcommands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or ``None``."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"mamba_stream.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a guess at what was meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from mamba_stream.core.names import did_you_mean

            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 unavailable.",
)
@click.version_option(__version__, message="mamba-stream %(version)s")
def command() -> None:
    """A durable log of Arrow batches, and a stream engine over it that speaks Polars.

    The log is a directory: --log DIR, else $MAMBA_STREAM_LOG, else mamba-stream.toml, else the user's data
    directory.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    code = invoke(arguments)
    # What is there goes with the process: to look for garbage among it takes as long as much of what a command does.
    gc.freeze()
    sys.exit(code)


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code.

    Args:
        arguments: What was typed after the command's name; the process's own arguments where left out.
    """
    from mamba_stream.errors import MambaStreamError

    try:
        code = command.main(
            None if arguments is None else list(arguments), prog_name="mamba-stream", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except MambaStreamError as error:
        click.echo(f"error: {error}", err=True)
        return _code(error)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED


def _code(error: Exception) -> int:
    from mamba_stream import errors

    match error:
        case errors.NotFound():
            return NOT_FOUND
        case errors.LogUnavailable():
            return UNAVAILABLE
        case errors.InvalidName():
            return USAGE
        case _:
            return FAILED
