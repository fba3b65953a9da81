"""The public names, what importing them costs, and what the README promises."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mamba_stream
from mamba_stream import errors

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_these_and_each_can_be_had():
    ours = {
        *("open", "Log", "Topic", "LogBatch", "Reader", "Transaction", "restore"),
        *("stream", "Stream", "concat", "sequence", "pipeline", "Pipeline", "run", "start", "step", "Job"),
        *("tumbling", "hopping", "cumulative", "session", "rows", "append_time", "periodically"),
        *("Publisher", "Producer", "RoutingPolicy", "FilterRule", "aio"),
        *("Consumer", "Message", "Subscriber", "queue_statistics"),
    }
    tree = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(mamba_stream.__all__) == {*ours, *tree, "__version__"}
    assert all(hasattr(mamba_stream, name) for name in mamba_stream.__all__)
    assert dir(mamba_stream) == sorted(mamba_stream.__all__)


def test_what_type_checkers_see_is_what_there_is():
    source = ast.parse(Path(mamba_stream.__file__).read_text())
    (checked,) = [node for node in source.body if isinstance(node, ast.If)]
    names = {alias.asname or alias.name for node in checked.body for alias in node.names}
    assert names == set(mamba_stream.__all__) - {"__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'strem'"):
        mamba_stream.strem  # noqa: B018


def test_every_error_descends_from_the_root_and_is_drawn():
    for name, error in vars(errors).items():
        if inspect.isclass(error):
            assert issubclass(error, errors.MambaStreamError)
            assert re.search(rf"\b{name}\b", errors.__doc__)


def test_every_public_name_and_its_methods_are_documented():
    undocumented = []
    for name in set(mamba_stream.__all__) - {"__version__"}:
        value = getattr(mamba_stream, name)
        if not inspect.getdoc(value):
            undocumented.append(name)
        if inspect.isclass(value) and not issubclass(value, Exception):
            undocumented += [
                f"{name}.{member}"
                for member, method in vars(value).items()
                if not member.startswith("_") and callable(method) and not method.__doc__
            ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("used", "unwanted"),
    [
        ("__version__", "polars pyarrow numpy lmdb msgspec click rich"),
        ("open", "mamba_stream.plan mamba_stream.operators mamba_stream.runtime"),
    ],
)
def test_who_uses_little_imports_little(used: str, unwanted: str):
    code = (
        f"import sys; import mamba_stream; mamba_stream.{used};"
        f"sys.exit(' '.join({ {*unwanted.split()} } & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readmes_quick_start_runs_in_a_directory_of_its_own(tmp_path, environment):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    quick_start = next(block for block in blocks if "import mamba_stream" in block)
    assert len([line for line in quick_start.splitlines() if line.strip()]) == 10
    (tmp_path / "quickstart.py").write_text(quick_start)
    done = subprocess.run(
        [sys.executable, "-W", "error", "quickstart.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.search(r"```python.*?```\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None, "the README shows what the quick start prints, right under it"
    assert done.stdout.strip() == shown[1].strip()


def test_every_guarantee_of_the_readme_names_a_test_that_exists():
    for document in (ROOT / "README.md", ROOT / "docs" / "guarantees.md"):
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", document.read_text())
        assert named
        for file, test in named:
            assert (ROOT / file).is_file(), f"{document.name}: {file}"
            assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{document.name}: {file}::{test}"


def test_nothing_that_was_stored_or_received_can_become_code():
    forbidden = re.compile(
        r"\b(pickle|cloudpickle|marshal|shelve|eval|exec)\b\s*[.(]|\bdeserialize\(|\bimport pickle"
    )
    # What is unpickled there comes from the process that started this one as its worker, and from nobody else.
    sent = ROOT / "mamba_stream" / "runtime" / "workers" / "shipping.py"
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (ROOT / "mamba_stream").rglob("*.py")
        if path != sent
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line) and not line.lstrip().startswith(("#", '"'))
    ]
    assert found == []


def test_documents_link_to_files_that_exist():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.relative_to(ROOT)}: {link}"


def test_every_dependency_is_imported_somewhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=]", requirement)[0] for requirement in project["dependencies"]}
    imported = set()
    rooms = ("mamba_stream", "connectors", "pipelines")
    for path in [path for room in rooms for path in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    ours = {"mamba_stream", "mamba_connectors", "mamba_pipelines"}
    server = {"grpc", "grpc_health", "prometheus_client", "starlette", "structlog", "uvicorn"}
    optional = {"pandas", "pytest", "hypothesis", "psutil", "obstore", *server}
    assert imported - set(sys.stdlib_module_names) - ours - optional == wanted
