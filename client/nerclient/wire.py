"""Between plain objects and the messages of ner.v1."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

from ner.v1 import tagger_pb2 as pb
from nerclient.errors import InvalidInput, ProtocolError, Unimplemented
from nerclient.results import Entity, Input, Limits, Model, Result, Token
from nerclient.status import from_status

LEAST_PROBABILITY = 0.001  # of TagOptions.min_probability
_REQUEST_BYTES = 64  # at least the id and the options of a request
_ITEM_BYTES = 12  # at least the tags and lengths around one text or sentence
_TOKEN_BYTES = 6  # and around one token


@dataclass(frozen=True, slots=True)
class Item:
    """One input on its way, `size` at least its serialized bytes. `error` is set if it cannot be sent."""

    input: Input
    size: int = 0
    lines: str | None = None  # the tokens joined by line feeds, where that can be undone
    error: InvalidInput | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Consecutive inputs and the message that asks for those of them that can be sent; None if none can."""

    items: list[Item]
    message: pb.TagRequest | None


def options(scores: bool, tags: bool, min_probability: float | None) -> pb.TagOptions:
    """What is asked of every input; ValueError for a probability that no server takes."""
    if min_probability is not None and not LEAST_PROBABILITY <= min_probability <= 1:
        raise ValueError(f"min_probability is {min_probability}, expected one from {LEAST_PROBABILITY} to 1")
    return pb.TagOptions(scores=scores, tags=tags, min_probability=min_probability)


def pack(
    inputs: Iterable[Input],
    limits: Limits,
    options: pb.TagOptions,
    ids: Iterator[int],
    *,
    most_inputs: int,
    most_bytes: int,
) -> list[Request]:
    """Cuts inputs into requests of at most so many inputs and bytes, in order; one large input makes its own."""
    requests: list[Request] = []
    group: list[Item] = []
    size = 0
    for given in inputs:
        item = _item(given, limits)
        if group and (len(group) == most_inputs or size + item.size > most_bytes):
            requests.append(_request(group, options, ids))
            group, size = [], 0
        group.append(item)
        size += item.size
    if group:
        requests.append(_request(group, options, ids))
    return requests


def unpack(request: Request, response: pb.TagResponse, table: Sequence[str] | None) -> list[Result]:
    """One result for each input of a request; `table` is Model.tags of the version that answered, if tags were asked.

    Raises ProtocolError if the response does not answer this request, Unimplemented if the server lacks an option.
    """
    assert request.message is not None
    if response.id != request.message.id:
        raise ProtocolError(f"the server answered request {response.id!r} where {request.message.id!r} was due")
    if response.HasField("error"):
        error = from_status(response.error)
        if isinstance(error, Unimplemented):
            raise error
        return [Result(item.input, error=item.error or error) for item in request.items]
    sent = sum(item.error is None for item in request.items)
    if len(response.outcomes) != sent:
        raise ProtocolError(f"the server answered {len(response.outcomes)} inputs where {sent} were sent")
    outcomes = iter(response.outcomes)
    return [
        refused(item) if item.error else _result(item.input, next(outcomes), response.model_version, table)
        for item in request.items
    ]


def refused(item: Item) -> Result:
    """The result of an input that was not sent."""
    return Result(item.input, error=item.error)


def model(message: pb.Model) -> Model:
    """A model's description; `create_time` is None if the server does not tell it."""
    return Model(
        name=message.name,
        version=message.version,
        labels=tuple(message.labels),
        tags=tuple(message.tags),
        metrics=dict(sorted(message.metrics.items())),
        limits=Limits(**{field.name: getattr(message.limits, field.name) for field in pb.Limits.DESCRIPTOR.fields}),
        create_time=message.create_time.ToDatetime(UTC) if message.HasField("create_time") else None,
        sha256=message.sha256,
    )


def _item(given: Input, limits: Limits) -> Item:
    lines: str | None = None
    try:
        if isinstance(given, str):
            text_bytes = len(given.encode())
            if text_bytes > limits.max_text_bytes:
                raise ValueError(_over(text_bytes, "max_text_bytes", limits.max_text_bytes))
            size = text_bytes + _ITEM_BYTES
        else:
            joined = "\n".join(given)
            size = len(joined.encode()) + _TOKEN_BYTES * len(given) + _ITEM_BYTES
            lines = joined if joined.count("\n") == max(0, len(given) - 1) else None
        if size + _REQUEST_BYTES > limits.max_request_bytes:
            raise ValueError(_over(size + _REQUEST_BYTES, "max_request_bytes", limits.max_request_bytes))
    except UnicodeEncodeError as error:
        message = f"not Unicode text: a lone surrogate at position {error.start}; decode it as what it is"
        return Item(given, error=InvalidInput(message))
    except ValueError as error:
        return Item(given, error=InvalidInput(str(error)))
    except TypeError:
        kind = type(given).__name__
        return Item(
            given, error=InvalidInput(f"an input is a str or a sequence of str, got {kind}: decode or split it")
        )
    return Item(given, size, lines)


def _over(size: int, limit: str, most: int) -> str:
    return f"{size:,} bytes are over the server's {limit} of {most:,}: split the input"


def _request(items: list[Item], options: pb.TagOptions, ids: Iterator[int]) -> Request:
    good = [item for item in items if item.error is None]
    if not good:
        return Request(items, None)
    message = pb.TagRequest(id=str(next(ids)), options=options)
    packable = [item.lines for item in good if item.lines is not None]
    if len(packable) == len(good):
        message.packed.tokens = "\n".join(
            lines for lines, item in zip(packable, good, strict=True) if len(item.input) > 0
        )
        message.packed.lengths.extend(len(item.input) for item in good)
    else:
        for item in good:
            if isinstance(item.input, str):
                message.inputs.add(text=item.input)
            else:
                message.inputs.add(tokens=pb.Tokens(tokens=item.input))
    return Request(items, message)


def _result(given: Input, outcome: pb.Outcome, version: str, table: Sequence[str] | None) -> Result:
    if outcome.HasField("error"):
        return Result(given, model_version=version, error=from_status(outcome.error))
    tagged = outcome.tagged
    entities = tuple(
        Entity(e.start, e.end, e.label, _surface(given, e.start, e.end), e.score if e.HasField("score") else None)
        for e in tagged.entities
    )
    tokens = None if table is None else tuple(_tokens(given, tagged.tags, table))
    return Result(given, entities, tokens, version)


def _tokens(given: Input, tags: pb.Tags, table: Sequence[str]) -> Iterator[Token]:
    starts: Sequence[int] = tags.starts
    ends: Sequence[int] = tags.ends
    if not isinstance(given, str):
        starts, ends = range(len(given)), range(1, len(given) + 1)
    if not len(tags.ids) == len(starts) == len(ends):
        raise ProtocolError(f"the server sent {len(tags.ids)} tags for {len(starts)} tokens")
    if tags.ids and max(tags.ids) >= len(table):
        raise ProtocolError(f"the server sent tag {max(tags.ids)} of a table of {len(table)}")
    for start, end, index in zip(starts, ends, tags.ids, strict=True):
        yield Token(start, end, _surface(given, start, end), table[index])


def _surface(given: Input, start: int, end: int) -> str:
    if not start < end <= len(given):
        raise ProtocolError(f"the server sent the span {start}:{end} in an input of length {len(given)}")
    return given[start:end] if isinstance(given, str) else " ".join(given[start:end])
