"""One result as what the command prints: readable text, JSON lines, or CoNLL columns."""
# ruff: noqa: PLC0415 rich is slow to import

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from nerclient.results import Entity, Input, Result

Paint: TypeAlias = Callable[[str, str], str]  # (label, marked text) -> the same, coloured
_COLOURS = ("bright_cyan", "green", "yellow", "bright_blue", "magenta", "cyan", "bright_red")


@dataclass(frozen=True, slots=True)
class Format:
    """How answers are written, each ending its last line; `failure` keeps the place of a document without one."""

    answer: Callable[[Result], str]
    failure: Callable[[Input | None, str], str]


def text_format(paint: Paint) -> Format:
    """The line itself with its entities marked: [Ada Byron PER] was born in [London LOC]."""

    def answer(result: Result) -> str:
        given, separator = (result.input, "") if isinstance(result.input, str) else (result.input, " ")
        parts: list[str] = []
        end = 0
        for entity in result.entities:
            parts += _between(given, end, entity.start)
            parts.append(paint(entity.label, f"[{entity.text} {entity.label}{_score(entity)}]"))
            end = entity.end
        parts += _between(given, end, len(given))
        return separator.join(parts) + "\n"

    return Format(answer, lambda given, reason: "\n")


def painter() -> Paint:
    """Colours by label if standard output is a terminal that shows them and NO_COLOR is not set."""
    if not sys.stdout.isatty():
        return lambda label, marked: marked

    from rich.color import ColorSystem
    from rich.console import Console
    from rich.style import Style

    console = Console()
    if console.no_color or console.is_dumb_terminal:
        return lambda label, marked: marked

    def paint(label: str, marked: str) -> str:
        # The same label has the same colour in every run; PER, ORG, LOC and MISC differ.
        style = Style(bold=True, color=_COLOURS[sum(label.encode()) % len(_COLOURS)])
        return style.render(marked, color_system=ColorSystem.STANDARD)

    return paint


def _between(given: Input, start: int, end: int) -> list[str]:
    return [given[start:end]] if isinstance(given, str) else list(given[start:end])


def _score(entity: Entity) -> str:
    return "" if entity.score is None else f" {entity.score:.2f}"


def _entity(entity: Entity) -> dict[str, Any]:
    shown = {"start": entity.start, "end": entity.end, "label": entity.label, "text": entity.text}
    return shown if entity.score is None else {**shown, "score": round(entity.score, 6)}


def _input(given: Input | None) -> dict[str, Any]:
    if given is None or isinstance(given, str):
        return {"text": given}
    return {"text": " ".join(given), "tokens": list(given)}


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _jsonl(result: Result) -> str:
    entities = [_entity(entity) for entity in result.entities]
    return _line({**_input(result.input), "entities": entities, "model_version": result.model_version})


def _conll(result: Result) -> str:
    return "".join(f"{token.text}\t{token.tag}\n" for token in result.tokens or ()) + "\n"


JSONL = Format(_jsonl, lambda given, reason: _line({**_input(given), "error": reason}))
"""One JSON object a line."""

CONLL = Format(_conll, lambda given, reason: "\n")
"""`token TAB tag` lines and a blank line after each document; needs results with tokens."""
