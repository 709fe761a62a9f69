"""What a caller gets: plain frozen objects, no wire types."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from nerclient.errors import NerstreamError

Input: TypeAlias = str | Sequence[str]
"""Raw text as a str, or the tokens of one sentence as a sequence of str."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A named thing in an input.

    `start` and `end` (exclusive) count code points of a text, so that `text[start:end] == entity.text`, or tokens of a
    sentence, where `entity.text` is `" ".join(tokens[start:end])`. Entities overlap only if a least probability was
    asked for.
    """

    start: int
    end: int
    label: str
    text: str
    score: float | None = None  # the probability in [0, 1] of just this; set when scores were asked for


@dataclass(frozen=True, slots=True)
class Token:
    """One token with its tag, such as "B-PER". `start` and `end` are in the unit of Entity's."""

    start: int
    end: int
    text: str
    tag: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input. Where `error` is set, nothing else but `input` means anything."""

    input: Input
    entities: tuple[Entity, ...] = ()
    tokens: tuple[Token, ...] | None = None  # set when tags were asked for
    model_version: str = ""
    error: NerstreamError | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts, in the words of ner.v1's Limits."""

    max_inputs: int
    max_request_bytes: int
    max_text_bytes: int
    max_sentence_tokens: int
    stream_window: int


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model, in the words of ner.v1's Model."""

    name: str
    version: str
    labels: tuple[str, ...]
    tags: tuple[str, ...]
    metrics: dict[str, float]
    limits: Limits
    create_time: datetime | None  # aware, UTC
    sha256: str


@dataclass(frozen=True, slots=True)
class Version:
    """One checkpoint in the model's folder, in the words of ner.v1's Version."""

    version: str  # "en/000003"
    serving: bool
    pinned: bool
    refused: str  # why it was, or empty
    update_time: datetime | None  # aware, UTC; when its file was last written
    bytes: int
