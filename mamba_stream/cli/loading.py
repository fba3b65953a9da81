"""Pipelines by name: in a file, in a module, or among those that installed packages offer.

Nothing of the engine imports a pipeline; the demo is found here like anybody's, by its entry point.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import InvalidInput, NotFound
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.workers.shipping import send_whole

GROUP = "mamba_stream.pipelines"


def load_module(name: str) -> ModuleType:
    """The module of a ready-made pipeline, by the name of its entry point.

    Raises:
        NotFound: No installed package offers one of that name.
    """
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        known = ", ".join(sorted(offered)) or "none is installed"
        raise NotFound(f"no pipeline {name!r}{did_you_mean(name, offered)}; there are: {known}")
    module = offered[name].load()
    assert isinstance(module, ModuleType)
    return module


def load_pipeline(target: str) -> Pipeline:
    """The pipeline that a file, a module or an entry point holds.

    Args:
        target: ``file.py`` or ``file.py:name``, ``package.module`` or ``package.module:name``, or the name of
            a ready-made one. Without ``:name`` there is one pipeline at module level, or a ``build()``.

    Raises:
        NotFound: There is no such file, module or name.
        InvalidInput: There is no pipeline in it, or more than one.
    """
    place, _, name = target.partition(":")
    module = _module(place)
    if name:
        if not hasattr(module, name):
            raise NotFound(f"{place} has no {name!r}{did_you_mean(name, vars(module))}")
        return _pipeline(getattr(module, name), target)
    found = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    if len({id(value) for value in found.values()}) > 1:
        names = ", ".join(f"{place}:{key}" for key in found)
        raise InvalidInput(f"{place} holds several pipelines: name one of {names}")
    if found:
        return next(iter(found.values()))
    if hasattr(module, "build"):
        return _pipeline(module.build, target)
    raise InvalidInput(f"{place} holds no pipeline at module level, and no build() that makes one")


def _module(place: str) -> ModuleType:
    path = Path(place)
    if path.suffix == ".py":
        if not path.is_file():
            raise NotFound(f"there is no file {place}")
        # What the file imports beside itself is found, as when Python runs it.
        sys.path.insert(0, str(path.resolve().parent))
        name = (
            path.stem
            if path.stem.isidentifier() and path.stem not in sys.modules
            else "mamba_stream_pipeline"
        )
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        # Other processes get what is in it, and do not run it again.
        send_whole(module)
        spec.loader.exec_module(module)
        return module
    if place in {point.name for point in entry_points(group=GROUP)}:
        return load_module(place)
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise NotFound(f"there is no file, module or ready-made pipeline {place!r}") from None
        raise


def _pipeline(value: object, target: str) -> Pipeline:
    made = value() if callable(value) else value
    if not isinstance(made, Pipeline):
        raise InvalidInput(f"{target} is {type(made).__name__}, not a Pipeline: see mamba.pipeline(...)")
    return made
