"""A pipeline on its way to the workers of its job: the one place where code travels.

Functions and what they refer to are pickled by the process that starts a job, and unpickled by the workers that it
started itself, over a socket that nobody else has. Nothing that workers say is ever unpickled, and what is pickled goes
nowhere else: neither into the log nor to a server.

A function is sent by its module's name where workers can import that, and as a whole where they cannot: from the main
program, which is not to be run again; from a notebook; from a file that was loaded by its path; and from a module that
is only now being imported, since that is what starts the job.
"""

from __future__ import annotations

import copyreg
import io
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, Final

import cloudpickle
import msgspec

from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Log, Topic
from mamba_stream.log.ways import Way
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.refusing import first_line
from mamba_stream.runtime.options import RunOptions

_LONGEST: Final = 300
_OWN: Final = "mamba_stream"
_sent_whole: set[str] = set()
_registering = threading.Lock()


class Shipment(msgspec.Struct, frozen=True, eq=False):
    """What a worker has to know.

    Attributes:
        pipeline: The pipeline.
        way: How to come to its log.
        options: How the job is run.
        partitions: How many tasks a stage behind a shuffle has.
        run: The number of the job's run.
        schemas: By name the schemas of the topics that it was planned for.
    """

    pipeline: Pipeline
    way: Way
    options: RunOptions
    partitions: int
    run: int
    schemas: Mapping[str, int]


def send_whole(module: ModuleType) -> None:
    """From now on functions of this module are sent as a whole.

    It was loaded by its path, and to import it is to run it a second time.
    """
    _sent_whole.add(module.__name__)


def pack(shipment: Shipment) -> bytes:
    """What is sent to a worker.

    Raises:
        PipelineRefused: Something in the pipeline cannot be sent; the message names the step.
    """
    with _whole_modules():
        try:
            return _packed(shipment)
        except Exception as error:
            raise _refused(shipment.pipeline, error) from error


def unpack(data: bytes) -> Shipment:
    """What was sent by the process that started this one. Only for that: it runs code."""
    found = cloudpickle.loads(data)
    assert isinstance(found, Shipment)
    return found


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]  # it ships no types
    """Pickles a pipeline without the handles of logs in it."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, n.TopicSource) and obj.bound is not None:
            # The worker has a log of its own, and finds the topic there by its name.
            return copyreg.__newobj__, (type(obj),), {**vars(obj), "bound": None}  # type: ignore[attr-defined]
        if isinstance(obj, Log | Topic):
            raise TypeError(f"{obj!r} is open in this process only")
        if isinstance(obj, CodeType):
            # Otherwise the name of the file would be left out, and an error could not say where it was raised.
            kind, arguments = self.dispatch_table[CodeType](obj)
            return _of_file, (obj.co_filename, kind, *arguments)
        return super().reducer_override(obj)


def _of_file(name: str, kind: type[CodeType], *arguments: Any) -> CodeType:
    return kind(*arguments).replace(co_filename=name)


def _packed(value: object) -> bytes:
    buffer = io.BytesIO()
    _Packer(buffer).dump(value)
    return buffer.getvalue()


def _refused(pipeline: Pipeline, error: Exception) -> PipelineRefused:
    """The refusal, with the step that cannot be sent, where that is found."""
    said = f"{type(error).__name__}: {first_line(error)}"[:_LONGEST]
    return PipelineRefused(
        f"pipeline {pipeline.name!r} cannot be sent to worker processes{_where(pipeline)}: {said}. What a "
        "function refers to is sent along, and open files, connections, locks and logs cannot be: open them within the "
        "function, or run with workers=1"
    )


def _where(pipeline: Pipeline) -> str:
    for node in pipeline.nodes:
        for field in fields(node):
            value = getattr(node, field.name)
            if field.name == "bound" or isinstance(value, n.Node):
                continue
            if isinstance(value, tuple) and any(isinstance(item, n.Node) for item in value):
                continue
            try:
                _packed(value)
            except Exception:  # noqa: BLE001 - whatever it is, this is where
                return f" ({node.verb} at {node.place})"
    return ""


@contextmanager
def _whole_modules() -> Iterator[None]:
    """While this lasts, functions of modules that a worker could not import, or had better not, are pickled whole."""
    with _registering:
        registered = []
        there: dict[str, Any] = dict(sys.modules)
        for name, module in there.items():
            if isinstance(module, ModuleType) and _goes_whole(name, module):
                try:
                    cloudpickle.register_pickle_by_value(module)
                except ValueError:
                    # Known under another name only: what is in it cannot be found by a name anyway.
                    continue
                registered.append(module)
        try:
            yield
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def _goes_whole(name: str, module: ModuleType) -> bool:
    if name in {"__main__", "__mp_main__"} or name.partition(".")[0] == _OWN or module.__name__ != name:
        return False
    if name in _sent_whole:
        return True
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    if getattr(spec, "_initializing", False):
        return True
    file = getattr(module, "__file__", None)
    if spec is None or file is None:
        # Made by a program; or built in, or a namespace, which has no functions.
        return spec is None and name not in sys.stdlib_module_names
    if _lies_on_path(name, file):
        return False
    found = _found(name)
    return found is None or found.origin != spec.origin


def _lies_on_path(name: str, file: str) -> bool:
    """Whether a module's file is where an import of that name looks, without looking."""
    stem = name.replace(".", "/")
    head = file.removesuffix("/__init__.py")
    head = head if head != file else file.rpartition("/")[0] + "/" + file.rpartition("/")[2].partition(".")[0]
    return head.endswith("/" + stem) and head[: -len(stem) - 1] in sys.path


def _found(name: str) -> ModuleSpec | None:
    """What an import of this name finds."""
    parent, _, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    for finder in sys.meta_path:
        # They are somebody else's, and may not be made for this.
        with suppress(Exception):
            if (found := finder.find_spec(name, path)) is not None:
                return found
    return None
