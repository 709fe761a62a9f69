"""Bytes that no client of ours would send, for a minute: every one gets an answer that is in the contract."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from tests.chaos.conftest import STREAM_TAG, TAG, serving
from tests.conftest import Figure

from ner.v1 import tagger_pb2 as pb

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]
SECONDS = 60.0
AT_ONCE = 24  # messages in flight
MAX_REQUEST = 50_000  # bytes; gRPC takes twice that, and the longest mutated ones are longer
MOST = 110_000
GET_MODEL = "/ner.v1.Tagger/GetModel"
MARK = "Qzvxmark"  # in every text that is sent; nothing that we write about a request may hold it
CODE = grpc.StatusCode
ALLOWED = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.UNIMPLEMENTED, CODE.NOT_FOUND, CODE.RESOURCE_EXHAUSTED}
NUMBERS = {code.value[0] for code in ALLOWED}

ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\u200b",
    "\ufeff",
    "\U0001f468\u200d\U0001f469",
    "a" * 10_000,
    "\u0301" * 50,
    "\r\n\t",
    ".",
]
texts = st.one_of(st.text(max_size=40), st.sampled_from(ODD_TEXTS)).map(lambda text: f"{MARK} {text}")
words = st.lists(st.one_of(st.text(max_size=12), st.just(MARK)), max_size=8)
numbers = st.one_of(st.integers(0, 4), st.integers(-(2**31), 2**31 - 1))
floats = st.floats(width=32)
options = st.builds(
    pb.TagOptions,
    offset_unit=numbers,
    tags=st.booleans(),
    scores=st.booleans(),
    min_probability=st.one_of(st.none(), floats),
    priority=numbers,
    ordering=numbers,
)
inputs = st.one_of(
    st.just(pb.Input()),
    texts.map(lambda text: pb.Input(text=text)),
    words.map(lambda tokens: pb.Input(tokens=pb.Tokens(tokens=tokens))),
)
packed = st.builds(pb.PackedSentences, tokens=texts, lengths=st.lists(st.integers(0, 2**32 - 1), max_size=5))
requests = st.builds(
    pb.TagRequest,
    id=st.one_of(st.just(""), texts),
    inputs=st.lists(inputs, max_size=4),
    packed=st.one_of(st.none(), packed),
    options=st.one_of(st.none(), options),
    model=st.sampled_from(["", "", "en", MARK]),
)
raw = st.one_of(st.binary(max_size=200), requests.map(pb.TagRequest.SerializeToString))


class Target:
    """The methods of a server, and what they answered."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.codes: Counter[str] = Counter()
        self.told: list[str] = []  # what must not have been told
        self._unary: list[Any] = [channel.unary_unary(TAG), channel.unary_unary(GET_MODEL)]
        self._stream: Any = channel.stream_stream(STREAM_TAG)

    def send(self, messages: Sequence[bytes]) -> None:
        """Send each to both unary methods, and all over one stream."""
        calls = [(method, method.future(message, timeout=30)) for message in messages for method in self._unary]
        stream = self._stream(iter(messages), timeout=30)
        replies: list[pb.TagResponse] = []
        with suppress(grpc.RpcError):
            replies += [pb.TagResponse.FromString(reply) for reply in stream]
        self._take("StreamTag", stream)
        if stream.code() is CODE.OK and len(replies) != len(messages):
            self.told.append(f"{len(replies)} replies to {len(messages)} messages of a stream")
        for method, call in calls:
            self._take("Tag or GetModel", call)
            if method is self._unary[0] and call.code() is CODE.OK:
                replies.append(pb.TagResponse.FromString(call.result()))
        for reply in replies:
            for status in (reply.error, *(outcome.error for outcome in reply.outcomes)):
                if status.code not in NUMBERS or MARK in status.message:
                    self.told.append(f"in a reply: {status.code} {status.message}")

    def _take(self, method: str, call: Any) -> None:
        self.codes[call.code().name] += 1
        if call.code() not in ALLOWED or MARK in (call.details() or ""):
            self.told.append(f"{method}: {call.code()} {call.details()}")


def test_fuzz(tmp_path: Path, figure: Figure) -> None:
    """Whatever bytes come, the server neither crashes nor answers UNKNOWN, and no text of theirs is in its log."""
    with (
        serving(
            tmp_path / "log",
            options=["--max-text-bytes", str(MAX_REQUEST // 5), "--max-request-bytes", str(MAX_REQUEST)],
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        target = Target(channel)
        began = time.monotonic()
        made = _hypothesis(target, began + SECONDS / 3)
        mutated = _mutated(target, began + SECONDS)
        tag: Any = channel.unary_unary(TAG, pb.TagRequest.SerializeToString, pb.TagResponse.FromString)
        answer = tag(pb.TagRequest(inputs=[pb.Input(text="Ada Lovelace met Babbage in London.")]), timeout=5)
        alive = server.process.poll() is None
        log = server.log.read_text()
    bad = [word for word in ("Traceback", "internal error", MARK) if word in log]
    figure(
        f"{made} messages made by hypothesis and {mutated} mutated ones to each method in {SECONDS:.0f} s: "
        f"{', '.join(f'{code} {number}' for code, number in target.codes.most_common())}; "
        f"crashes {int(not alive)}, beyond the contract {len(target.told)}, in the log {bad or 'nothing'}"
    )
    assert not target.told, target.told[:5]
    assert not bad, log[-2000:]
    assert alive
    assert answer.outcomes[0].tagged.entities


def _hypothesis(target: Target, until: float) -> int:
    """Send what hypothesis makes until then: how many messages."""
    sent = 0

    for number in count():

        @seed(number)
        @settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(raw, min_size=AT_ONCE, max_size=AT_ONCE))
        def send(messages: list[bytes]) -> None:
            nonlocal sent
            target.send(messages)
            sent += len(messages)

        send()
        if time.monotonic() > until:
            break
    return sent


def _mutated(target: Target, until: float) -> int:
    """Send good messages that were hurt until then: how many."""
    rng = random.Random(1)
    good = [
        pb.TagRequest(id=MARK, inputs=[pb.Input(text=f"{MARK} met Ada in London."), pb.Input(text="")]),
        pb.TagRequest(inputs=[pb.Input(tokens=pb.Tokens(tokens=[MARK, "met", "Acme"]))] * 3, model="en"),
        pb.TagRequest(packed=pb.PackedSentences(tokens=f"{MARK}\nmet\nAcme", lengths=[1, 2])),
        pb.TagRequest(
            inputs=[pb.Input(text=MARK)],
            options=pb.TagOptions(
                offset_unit=pb.OFFSET_UNIT_UTF8_BYTE,
                tags=True,
                scores=True,
                min_probability=0.1,
                priority=pb.PRIORITY_BULK,
                ordering=pb.ORDERING_COMPLETION,
            ),
        ),
        pb.GetModelRequest(name="en", version=MARK),
    ]
    messages = [message.SerializeToString() for message in good]
    sent = 0
    while time.monotonic() < until:
        batch = []
        for _ in range(AT_ONCE):
            data = rng.choice(messages)
            for _ in range(rng.randint(1, 3)):
                data = rng.choice(MUTATIONS)(data, rng)[: rng.choice([2_000, MOST])]
            batch.append(data)
        target.send(batch)
        sent += len(batch)
    return sent


def _flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else b"\x80"


def _cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data) + 1)]


def _doubled(data: bytes, rng: random.Random) -> bytes:
    """A part, maybe a field, is there again."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] * rng.randint(1, 50) + data[end:]


def _all_doubled(data: bytes, rng: random.Random) -> bytes:
    """Every field is there again: of those that are not repeated the last one counts."""
    return data * rng.randint(2, 20)


def _huge_length(data: bytes, rng: random.Random) -> bytes:
    """A field says that gigabytes follow."""
    field, length = rng.randint(1, 6), rng.choice([2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1])
    return data + bytes([field << 3 | 2]) + _varint(length) + MARK.encode()


def _nested(data: bytes, rng: random.Random) -> bytes:
    """A field in a field in a field, known or unknown."""
    field = rng.choice([2, 3, 4, 15])
    for _ in range(rng.choice([5, 99, 101, 1000])):
        data = bytes([field << 3 | 2]) + _varint(len(data)) + data
    return data


def _grouped(data: bytes, rng: random.Random) -> bytes:
    """Groups that begin and never end, or end and never began."""
    return data + bytes([rng.randint(1, 15) << 3 | rng.choice([3, 4])]) * rng.choice([1, 50, 5000])


def _mistyped(data: bytes, rng: random.Random) -> bytes:
    """A known field of another wire type."""
    field = rng.randint(1, 6)
    kind, rest = rng.choice([(0, _varint(rng.getrandbits(64))), (1, bytes(8)), (5, bytes(4)), (6, b""), (7, b"")])
    return bytes([field << 3 | kind]) + rest + data


def _not_utf8(data: bytes, rng: random.Random) -> bytes:
    """A string that is none: a lone surrogate, an overlong form, half a character."""
    text = MARK.encode() + rng.choice([b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x82", b"\xff\xfe", b"\xf5\x80\x80\x80"])
    field = b"\x0a" + _varint(len(text)) + text
    return rng.choice([field, b"\x12" + _varint(len(field)) + field, b"\x1a" + _varint(len(field)) + field]) + data


def _unknown(data: bytes, rng: random.Random) -> bytes:
    """Options, inputs and a request with fields of a later version."""
    field = _varint(rng.randint(100, 2**29 - 1) << 3 | 2) + _varint(len(MARK)) + MARK.encode()
    return data + rng.choice([field, b"\x22" + _varint(len(field)) + field, b"\x12" + _varint(len(field)) + field])


def _long(data: bytes, rng: random.Random) -> bytes:
    """A text beyond max_text_bytes, or a request beyond max_request_bytes and up to what gRPC takes."""
    text = (MARK + rng.choice(["a", "a ", "\0", "é"])).encode() * (rng.choice([1_000, 5_000]))
    field = b"\x0a" + _varint(len(text)) + text
    return data + b"\x12" + _varint(len(field)) + field


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    *(_flipped, _cut, _doubled, _all_doubled, _huge_length, _nested, _grouped, _mistyped, _not_utf8, _unknown, _long)
]


def _varint(value: int) -> bytes:
    return bytes(_groups_of_seven(value))


def _groups_of_seven(value: int) -> Iterator[int]:
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value
