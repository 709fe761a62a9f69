"""Options from a TOML file: --config FILE, and what a run's folder says of itself for --resume."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer

from nertrainer.run import CONFIG, read_config

_NOT_KEPT = ("config", "resume", "run", "help")  # said anew each time, or the folder itself


def from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values where the command line has none."""
    if path is not None and not context.resilient_parsing:
        _take(context, path)
    return path


def from_run(context: typer.Context, path: Path | None) -> Path | None:
    """Take the values of a run's folder."""
    if path is not None and not context.resilient_parsing:
        missing = [name for name in ("train", "dev", "sha256") if name not in read_config(path / CONFIG)]
        if missing:
            raise ValueError(f"{path / CONFIG}: lacks {', '.join(missing)}; it was damaged, so start a new run")
        _take(context, path / CONFIG)
    return path


def refuse_others(context: typer.Context, allowed: Collection[str]) -> None:
    """ValueError where the command line has options besides --resume and those allowed."""
    given = [
        f"--{name}"
        for name, parameter in _options(context).items()
        if name not in ("resume", *allowed) and _is_given(context, parameter.name)
    ]
    if given:
        raise ValueError(
            f"--resume goes on with the options in the run's {CONFIG}; leave out {', '.join(given)}, or start a new run"
        )


def resolved(context: typer.Context, **instead: Any) -> dict[str, Any]:
    """Every option's value as TOML can hold it, paths absolute, with these values `instead` of some."""
    values = {}
    for name, parameter in _options(context).items():
        value = instead.get(name, context.params[parameter.name])
        if name in _NOT_KEPT or value is None:
            continue
        values[name] = [_plain(each) for each in value] if isinstance(value, (list, tuple)) else _plain(value)
    return values


def _take(context: typer.Context, path: Path) -> None:
    options = _options(context)
    values = read_config(path)
    values.pop("sha256", None)
    found: dict[str, Any] = {}
    for written, value in values.items():
        name = written.replace("_", "-")
        if name not in options or name in ("config", "resume", "help"):
            near = difflib.get_close_matches(name, options, 1, 0)
            raise ValueError(f"{path}: unknown key {written}; did you mean {near[0]}?")
        if name == "labels" and isinstance(value, dict):
            found["labels"] = _label_map(path, value)
            continue
        found[options[name].name] = _checked(context, path, written, options[name], value)
    context.default_map = {**(context.default_map or {}), **found}


def _label_map(path: Path, table: Mapping[str, Any]) -> str:
    for each in (*table, *table.values()):
        if not isinstance(each, str) or "," in each or "=" in each:
            raise ValueError(f"{path}: labels: {each}: expected a label without a comma or an equals sign")
    return ",".join(f"{old}={new}" for old, new in table.items())


def _checked(context: typer.Context, path: Path, key: str, parameter: Any, value: Any) -> Any:
    """The value as the command line would have it; ValueError names the file and the key where it does not fit."""
    is_many = isinstance(value, list)
    if is_many != parameter.multiple:
        raise ValueError(f"{path}: {key}: expected {'a list' if parameter.multiple else 'one value'}")
    for each in value if is_many else [value]:
        if isinstance(each, bool) and not parameter.is_bool_flag:
            raise ValueError(f"{path}: {key}: expected a number or text, got {str(each).lower()}")
    text = [str(each) for each in value] if is_many else str(value)
    try:
        parameter.process_value(context, text)
    except typer.BadParameter as error:
        raise ValueError(f"{path}: {key}: {error.message}") from error
    return text


def _options(context: typer.Context) -> dict[str, Any]:
    """The command's options by their long names without dashes."""
    return {option.opts[0].removeprefix("--"): option for option in context.command.params}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _plain(value: Any) -> Any:
    return str(value.absolute()) if isinstance(value, Path) else value
