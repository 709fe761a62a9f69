"""Where settings come from besides the command line: a TOML file and the environment, by the names of the options."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer

PREFIX = "NERSERVER"  # NERSERVER_MAX_INPUTS is --max-inputs
MOST_CHARACTERS = 60  # of an unknown key that are told back
_NOT_OURS = re.compile(rf"{PREFIX}_(SERVICE_|PORT(_|$))")  # Kubernetes' own for a service that is called nerserver


def take_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's values where neither command line nor environment has any; BadParameter where it is wrong."""
    if path is None or context.resilient_parsing:
        return path
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of what Python will not read: huge numbers, deep nesting
        raise typer.BadParameter(f"{path}: not TOML that can be read: {error}") from error
    options = {str(option.name): option for option in context.command.params}
    found = {}
    for written, value in values.items():
        key = written.replace("-", "_")
        _check_known(str(path), written, key, options.keys() - {"config"})
        is_flag = getattr(options[key], "is_flag", False)
        if isinstance(value, (dict, list)) or isinstance(value, bool) != is_flag:
            expected = "true or false" if is_flag else "one number or text"
            raise typer.BadParameter(f"{path}: {written}: expected {expected}, got {type(value).__name__}")
        found[key] = str(value)
    context.default_map = found
    return path


def check_environment(context: typer.Context, environment: Mapping[str, str]) -> None:
    """BadParameter where a variable with our prefix is no option's."""
    known = {f"{PREFIX}_{str(option.name).upper()}" for option in context.command.params}
    for name in environment:
        if name.startswith(f"{PREFIX}_") and not _NOT_OURS.match(name):
            _check_known("the environment", name, name, known)


def _check_known(place: str, written: str, key: str, known: Iterable[str]) -> None:
    known = sorted(known)
    if key not in known:
        written = written if len(written) <= MOST_CHARACTERS else f"{written[:MOST_CHARACTERS]}…"
        near = difflib.get_close_matches(written.replace("-", "_"), known, 1)
        raise typer.BadParameter(f"{place}: unknown key {written}" + (f"; did you mean {near[0]}?" if near else ""))
