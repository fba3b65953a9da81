from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mamba_stream import errors
from mamba_stream.cli import COMMANDS, command

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def every_command():
    found = []

    def visit(path, node):
        if isinstance(node, click.Group):
            context = click.Context(node)
            for name in node.list_commands(context):
                visit([*path, name], node.get_command(context, name))
        else:
            found.append((" ".join(path), node))

    visit([], command)
    return found


@pytest.mark.parametrize(
    ("path", "node"), every_command(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_has_help_and_is_documented_with_all_its_options(run_command, path, node):
    shown = run_command(*path.split(), "--help")
    assert (shown.code, shown.err) == (0, "")
    assert node.help
    assert all(
        option.help for option in node.params if isinstance(option, click.Option) and len(option.name) > 9
    )
    section = re.search(
        rf"^### {re.escape(path)}\b.*?(?=^###? |\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    assert section is not None, f"docs/cli.md has no section '### {path}'"
    # The place of the log and the form of output are documented once, for all.
    options = {
        name
        for option in node.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("--")
    } - {
        "--log",
        "--profile",
        "--output",
    }
    written = set(re.findall(r"--[a-z][a-z-]*", section[0])) - {"--log"}
    assert written == options


def test_commands_appear_in_help_in_the_order_of_meeting_them(run_command):
    text = run_command("--help").out
    positions = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)


def test_help_loads_nothing_heavy():
    # The time itself is measured in benchmarks; what takes it is what is imported.
    code = (
        "import sys; from mamba_stream.cli import invoke; code = invoke(['--help']);"
        "heavy = {'polars', 'pyarrow', 'numpy', 'rich', 'lmdb', 'msgspec', 'asyncio'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_mistyped_command_is_a_usage_error_that_names_the_near_one(run_command):
    done = run_command("topics")
    assert (done.code, done.out) == (2, "")
    assert "no command 'topics', did you mean 'topic'?" in done.err
    assert run_command("topic", "create", "t", "--partitions", "none").code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TopicNotFound("x"), 3),
        (errors.JobNotFound("x"), 3),
        (errors.NotALog("x"), 4),
        (errors.ReadOnlyLog("x"), 4),
        (errors.InvalidName("x"), 2),
        (errors.SchemaMismatch("x"), 1),
        (errors.JobFailed("x"), 1),
        (errors.DataCorrupted("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_an_exit_code(run_command, monkeypatch, error, code):
    def fail(**_options):
        raise error

    monkeypatch.setattr(command.get_command(click.Context(command), "doctor"), "callback", fail)
    done = run_command("doctor", "anywhere")
    assert (done.code, done.out, done.err) == (code, "", "error: x\n")


def test_an_interrupt_ends_with_the_shells_own_code(run_command, monkeypatch):
    def interrupt(**_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.get_command(click.Context(command), "doctor"), "callback", interrupt)
    assert run_command("doctor", "anywhere").code == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_calls_back(run_command, shell):
    script = run_command("completion", shell)
    assert script.code == 0
    assert "_MAMBA_STREAM_COMPLETE" in script.out


def test_commands_and_topics_are_completed(environment, run_command, tmp_path):
    for name in ("flights", "flows", "trades"):
        run_command("topic", "create", name, "--schema", "n:int64", "--log", tmp_path / "log")

    def completed(line):
        words = {"COMP_WORDS": f"mamba-stream {line}", "COMP_CWORD": str(len(line.split()))}
        ask = {"_MAMBA_STREAM_COMPLETE": "bash_complete", **words}
        done = subprocess.run(
            [sys.executable, "-m", "mamba_stream"],
            env={**environment, **ask},
            capture_output=True,
            text=True,
            check=False,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    assert completed("pro") == ["produce"]
    assert sorted(completed("topic de")) == ["delete", "describe"]
    assert completed(f"consume --log {tmp_path}/log fl") == ["flights", "flows"]
    assert completed(f"consume --log {tmp_path}/nothing fl") == []
    assert not (tmp_path / "nothing").exists()


def test_the_version_is_that_of_the_package(run_command):
    import mamba_stream

    assert run_command("--version").out == f"mamba-stream {mamba_stream.__version__}\n"
