"""Between the wire's messages and plain objects: what a request asks, checked, and what a reply says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from ner.v1 import tagger_pb2 as pb
from nermodel.tagger import Answer, Ask, Entity
from nerserver.engine import Description
from nerserver.errors import (
    BusyError,
    DeadlineError,
    Failure,
    InvalidError,
    NotBuiltError,
    NotFoundError,
    PreconditionError,
    QueueFullError,
    RefusedError,
    RequestError,
    TooLateError,
    UnavailableError,
)
from nerserver.settings import Settings
from nerserver.splitting import Offsets, Unit, converted

MAX_ID_BYTES = 256
LEAST_PROBABILITY = 0.001  # below it there are so many spans that one request could fill the memory
KnownT = TypeVar("KnownT")
MessageT = TypeVar("MessageT", bound=Message)
CODES: dict[type[RequestError], grpc.StatusCode] = {
    InvalidError: grpc.StatusCode.INVALID_ARGUMENT,
    NotBuiltError: grpc.StatusCode.UNIMPLEMENTED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLateError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    RefusedError: grpc.StatusCode.ABORTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_UNITS: dict[int, Unit] = {
    pb.OFFSET_UNIT_UNSPECIFIED: Unit.CODE_POINT,
    pb.OFFSET_UNIT_CODE_POINT: Unit.CODE_POINT,
    pb.OFFSET_UNIT_UTF8_BYTE: Unit.UTF8_BYTE,
    pb.OFFSET_UNIT_UTF16_UNIT: Unit.UTF16_UNIT,
}
_BULK: dict[int, bool] = {pb.PRIORITY_UNSPECIFIED: False, pb.PRIORITY_INTERACTIVE: False, pb.PRIORITY_BULK: True}
_BY_COMPLETION: dict[int, bool] = {
    pb.ORDERING_UNSPECIFIED: False,
    pb.ORDERING_REQUEST: False,
    pb.ORDERING_COMPLETION: True,
}


@dataclass(frozen=True)
class Request:
    """What a caller asks for."""

    id: str
    inputs: list[str | list[str]]  # raw text, or the tokens of one sentence
    unit: Unit
    tags: bool
    ask: Ask
    bulk: bool
    by_completion: bool
    model: str


@dataclass(frozen=True)
class Found:
    """What was found in one input."""

    sentences: Sequence[Answer]
    offsets: Sequence[Offsets]  # of every token of raw text, in code points; none over given tokens


def decode(kind: type[MessageT], data: bytes) -> MessageT:
    """Parse a message; InvalidError where the bytes are not one."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise InvalidError(
            f"the {len(data)} bytes are not a {name}; send one as protobuf, its strings in UTF-8"
        ) from error


def read(message: pb.TagRequest, size: int, settings: Settings) -> Request:
    """Check a request of so many bytes; InvalidError or NotBuiltError says why it is refused as a whole."""
    if size > settings.max_request_bytes:
        raise InvalidError(
            f"the request has {size} bytes, more than max_request_bytes = {settings.max_request_bytes}; send several"
        )
    if len(message.id.encode()) > MAX_ID_BYTES:
        raise InvalidError(f"id has {len(message.id.encode())} bytes; send at most {MAX_ID_BYTES}")
    if message.HasField("packed") and message.inputs:
        raise InvalidError("both inputs and packed are set; send one of them")
    count = len(message.packed.lengths) if message.HasField("packed") else len(message.inputs)
    if count > settings.max_inputs:
        raise InvalidError(f"{count} inputs are more than max_inputs = {settings.max_inputs}; send several requests")
    options = message.options
    unknown = UnknownFieldSet(options)
    if len(unknown):
        raise NotBuiltError(f"TagOptions has no field {unknown[0].field_number} in this server; leave it unset")
    return Request(
        id=message.id,
        inputs=_unpacked(message.packed) if message.HasField("packed") else [_input(each) for each in message.inputs],
        unit=_known(_UNITS, options.offset_unit, "offset_unit"),
        tags=options.tags,
        ask=_ask(options),
        bulk=_known(_BULK, options.priority, "priority"),
        by_completion=_known(_BY_COMPLETION, options.ordering, "ordering"),
        model=message.model,
    )


def response(
    request: Request, results: Sequence[Found | InvalidError | Failure], version: str, timing: pb.Timing
) -> pb.TagResponse:
    """The answer to a request, one result for each of its inputs, all of this version of the model."""
    message = pb.TagResponse(id=request.id, model_version=version, timing=timing)
    for content, result in zip(request.inputs, results, strict=True):
        outcome = message.outcomes.add()
        if isinstance(result, Found):
            _fill(outcome.tagged, result, content, request)
        else:
            outcome.error.CopyFrom(_status(result))
    return message


def error_response(request_id: str, error: RequestError | Failure) -> pb.TagResponse:
    """The answer of a stream to a request that is refused as a whole."""
    return pb.TagResponse(id=request_id, error=_status(error))


def details(refusal: RequestError) -> tuple[tuple[str, bytes], ...]:
    """What a refusal adds to its code and message, as trailing metadata (see grpc_status)."""
    if refusal.retry_s is None:
        return ()
    return _retry_details(CODES[type(refusal)], str(refusal), refusal.retry_s)


@lru_cache(1024)  # a server that refuses many has little time for each
def _retry_details(code: grpc.StatusCode, message: str, retry_s: float) -> tuple[tuple[str, bytes], ...]:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromNanoseconds(int(retry_s * 1e9))
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(retry)
    return tuple(rpc_status.to_status(status).trailing_metadata)


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", refusal: RequestError) -> NoReturn:
    """End a call with the code of what it is refused for."""
    await context.abort(CODES[type(refusal)], str(refusal), details(refusal))


def model_message(model: Description, settings: Settings) -> pb.Model:
    """What is told of a model."""
    created = timestamp_pb2.Timestamp()
    created.FromDatetime(datetime.fromisoformat(model.created))
    return pb.Model(
        name=model.name,
        version=model.version,
        labels=model.labels,
        tags=model.tags,
        metrics=model.metrics,
        sha256=model.sha256,
        create_time=created,
        limits=pb.Limits(
            max_inputs=settings.max_inputs,
            max_request_bytes=settings.max_request_bytes,
            max_text_bytes=settings.max_text_bytes,
            max_sentence_tokens=settings.max_sentence_tokens,
            stream_window=settings.stream_window,
        ),
    )


def _input(message: pb.Input) -> str | list[str]:
    return list(message.tokens.tokens) if message.WhichOneof("content") == "tokens" else message.text


def _unpacked(packed: pb.PackedSentences) -> list[str | list[str]]:
    expected = sum(packed.lengths)
    count = packed.tokens.count("\n") + 1 if packed.tokens or expected else 0  # before millions of them are made
    if count != expected:
        raise InvalidError(
            f"packed.lengths sum to {expected}, but packed.tokens holds {count} tokens; join every "
            "token of every sentence by one line feed and send one length a sentence"
        )
    tokens = packed.tokens.split("\n") if expected else []
    ends = [0, *accumulate(packed.lengths)]
    return [tokens[start:end] for start, end in pairwise(ends)]


def _ask(options: pb.TagOptions) -> Ask:
    if not options.HasField("min_probability"):
        return 0 if options.scores else None
    least = options.min_probability
    if not LEAST_PROBABILITY <= least <= 1:
        raise InvalidError(f"TagOptions.min_probability is {least:g}; send one from {LEAST_PROBABILITY} to 1")
    return least


def _known(table: Mapping[int, KnownT], value: int, option: str) -> KnownT:
    if value not in table:
        raise NotBuiltError(f"TagOptions.{option} = {value} is not built in this server; it knows {sorted(table)}")
    return table[value]


def _fill(tagged: pb.Tagged, found: Found, content: str | list[str], request: Request) -> None:
    tagged.SetInParent()
    if request.tags:
        tagged.tags.ids = b"".join(answer.tags for answer in found.sentences)
    entities = list(_entities(found.sentences))
    offsets: dict[int, Offsets] = {}  # by token; none over given tokens
    if isinstance(content, str):
        used = {token for start, end, *_ in entities for token in (start, end - 1)}
        tokens = range(len(found.offsets)) if request.tags else sorted(used)
        places = converted([found.offsets[token] for token in tokens], content, request.unit)
        offsets = dict(zip(tokens, places, strict=True))
        if request.tags:
            tagged.tags.starts.extend(start for start, _ in places)
            tagged.tags.ends.extend(end for _, end in places)
    for start, end, label, score in entities:
        first, last = (offsets[start][0], offsets[end - 1][1]) if offsets else (start, end)
        tagged.entities.add(start=first, end=last, label=label, score=score)


def _entities(sentences: Sequence[Answer]) -> Iterator[Entity]:
    """The entities of one input, over all its tokens."""
    first = 0  # token of the sentence
    for answer in sentences:
        for start, end, label, score in answer.entities:
            yield Entity(first + start, first + end, label, score)
        first += len(answer.tags)


def _status(error: RequestError | Failure) -> status_pb2.Status:
    code = grpc.StatusCode.INTERNAL if isinstance(error, Failure) else CODES[type(error)]
    return status_pb2.Status(code=code.value[0], message=str(error))
