"""What requests are refused for, and what responses say."""

import math
import tracemalloc

import pytest

from ner.v1 import tagger_pb2 as pb
from nermodel.tagger import Answer, Ask, Entity
from nerserver.errors import Failure, InvalidError, NotBuiltError, QueueFullError
from nerserver.settings import Settings
from nerserver.splitting import Unit
from nerserver.wire import Found, Request, decode, details, read, response

SETTINGS = Settings(max_inputs=3, max_request_bytes=1000)


def parse(message: pb.TagRequest) -> Request:
    data = message.SerializeToString()
    return read(decode(pb.TagRequest, data), len(data), SETTINGS)


def packed(tokens: str, lengths: list[int]) -> pb.TagRequest:
    return pb.TagRequest(packed=pb.PackedSentences(tokens=tokens, lengths=lengths))


def with_options(options: pb.TagOptions) -> pb.TagRequest:
    return pb.TagRequest(inputs=[pb.Input(text="a")], options=options)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x01\xff", b"\x12\x05abc"])
def test_malformed(data: bytes) -> None:
    """Bytes that are no request, or hold text that is not UTF-8, are the caller's error."""
    with pytest.raises(InvalidError, match=r"are not a ner\.v1\.TagRequest; send one"):
        decode(pb.TagRequest, data)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (pb.TagRequest(id="é" * 129), "id has 258 bytes; send at most 256"),
        (pb.TagRequest(inputs=[pb.Input()] * 4), "4 inputs are more than max_inputs = 3; send several"),
        (packed("", [0] * 4), "4 inputs are more than max_inputs = 3; send several"),
        (
            pb.TagRequest(inputs=[pb.Input(text="x" * 2000)]),
            "has 20.. bytes, more than max_request_bytes = 1000; send",
        ),
        (packed("a\nb", [1, 2]), "packed.lengths sum to 3, but packed.tokens holds 2 tokens; join"),
        (packed("a", []), "packed.lengths sum to 0, but packed.tokens holds 1 tokens"),
        (packed("", [4_000_000_000, 2]), "packed.lengths sum to 4000000002"),
        (
            pb.TagRequest(inputs=[pb.Input(text="a")], packed=pb.PackedSentences(tokens="a", lengths=[1])),
            "both inputs and packed are set; send one",
        ),
    ],
)
def test_invalid(message: pb.TagRequest, said: str) -> None:
    """A request that breaks a limit or contradicts itself is told what came, what was expected and what to send."""
    with pytest.raises(InvalidError, match=said):
        parse(message)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            pb.TagOptions.FromString(b"\x08\x07"),
            r"offset_unit = 7 is not built in this server; it knows \[0, 1",
        ),
        (pb.TagOptions.FromString(b"\x28\x07"), "TagOptions.priority = 7 is not built"),
        (pb.TagOptions.FromString(b"\x30\x07"), "TagOptions.ordering = 7 is not built"),
        (pb.TagOptions.FromString(b"\xa0\x06\x01"), "TagOptions has no field 100 in this server"),
    ],
)
def test_not_built(options: pb.TagOptions, said: str) -> None:
    """An option that this server does not know is refused by its name, never ignored."""
    with pytest.raises(NotBuiltError, match=said):
        parse(with_options(options))


def test_miscounted_tokens_are_not_split() -> None:
    """A packed request whose lengths do not fit is refused before any of its many tokens is made."""
    message = packed("\n" * 1_000_000, [1])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidError, match="holds 1000001 tokens"):
            read(message, 1, SETTINGS)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_inputs() -> None:
    """Text is a string, tokens are a list, and unset content is empty text."""
    tokens = pb.Input(tokens=pb.Tokens(tokens=["a", "", "b c"]))
    message = pb.TagRequest(id="x", inputs=[pb.Input(text="a b"), tokens, pb.Input()], model="en")
    assert parse(message) == Request(
        "x", ["a b", ["a", "", "b c"], ""], Unit.CODE_POINT, False, None, False, False, "en"
    )


@pytest.mark.parametrize(
    ("tokens", "lengths", "inputs"),
    [
        ("", [], []),
        ("", [0, 0], [[], []]),
        ("", [1], [[""]]),
        ("a\nb\nc", [2, 0, 1], [["a", "b"], [], ["c"]]),
        ("a\n\nc", [3], [["a", "", "c"]]),
    ],
)
def test_packed(tokens: str, lengths: list[int], inputs: list[list[str]]) -> None:
    """Packed sentences mean the same as lists of tokens, empty sentences and empty tokens included."""
    assert parse(packed(tokens, lengths)).inputs == inputs


def test_options() -> None:
    """Every option that is built is understood."""
    options = pb.TagOptions(
        offset_unit=pb.OFFSET_UNIT_UTF16_UNIT, tags=True, priority=pb.PRIORITY_BULK, ordering=pb.ORDERING_COMPLETION
    )
    assert parse(with_options(options)) == Request("", ["a"], Unit.UTF16_UNIT, True, None, True, True, "")


@pytest.mark.parametrize(
    ("options", "ask"),
    [
        (pb.TagOptions(), None),
        (pb.TagOptions(scores=True), 0),
        (pb.TagOptions(min_probability=1.0), 1.0),
        (pb.TagOptions(min_probability=0.5, scores=True), 0.5),
        (pb.TagOptions(min_probability=0.001), pytest.approx(0.001)),
    ],
)
def test_ask(options: pb.TagOptions, ask: Ask) -> None:
    """What is asked of the tagger: nothing more, scores, or every entity that is so probable."""
    assert parse(with_options(options)).ask == ask


@pytest.mark.parametrize("least", [0.0, 0.0009, -0.5, 1.01, math.inf, math.nan])
def test_senseless_probability(least: float) -> None:
    """A least probability that is none, or that nearly every span has, is refused with those that are not."""
    with pytest.raises(InvalidError, match=r"^TagOptions.min_probability is \S+; send one from 0.001 to 1$"):
        parse(with_options(pb.TagOptions(min_probability=least)))


def test_response() -> None:
    """Each input has its outcome: entities and tags, or an error of its own."""
    text = "é Rome New York"
    request = Request("7", [text, ["a", "b"], "", "long", "sick"], Unit.UTF8_BYTE, True, 0.5, False, False, "")
    results: list[Found | InvalidError | Failure] = [
        Found(
            [
                Answer(b"\0\1", [Entity(1, 2, "LOC", 0.5)]),
                Answer(b"\1\2", [Entity(0, 1, "LOC", 0.75), Entity(0, 2, "LOC", 0.25)]),
            ],
            [(0, 1), (2, 6), (7, 10), (11, 15)],
        ),
        Found([Answer(b"", []), Answer(b"\3\4", [Entity(0, 2, "PER", None)])], []),
        Found([], []),
        InvalidError("too long"),
        Failure("abc"),
    ]
    message = response(request, results, "en/000001", pb.Timing(queue_us=5))
    assert (message.id, message.model_version, message.timing.queue_us) == ("7", "en/000001", 5)
    first, second, empty, long, sick = message.outcomes
    assert [text.encode()[each.start : each.end].decode() for each in first.tagged.entities] == [
        "Rome",
        "New",
        "New York",
    ]
    assert [each.label for each in first.tagged.entities] == ["LOC", "LOC", "LOC"]
    assert [each.score for each in first.tagged.entities] == [0.5, 0.75, 0.25]
    assert first.tagged.tags == pb.Tags(ids=b"\0\1\1\2", starts=[0, 3, 8, 12], ends=[2, 7, 11, 16])
    assert list(second.tagged.entities) == [pb.Entity(start=0, end=2, label="PER")]
    assert second.tagged.tags == pb.Tags(ids=b"\3\4")
    assert empty.WhichOneof("result") == "tagged"
    assert (long.error.code, long.error.message) == (3, "too long")
    assert sick.error.code == 13
    assert "abc" in sick.error.message


def test_retry_info() -> None:
    """A full queue says when to come back, in the details of the status; other refusals have none."""
    ((key, value),) = details(QueueFullError(1.5))
    assert key == "grpc-status-details-bin"
    assert b"google.rpc.RetryInfo" in value
    assert details(InvalidError("x")) == ()
