"""Answers under load: a sentence's own in any company, one for every request, and none spoilt by a bad neighbour."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
from tests.chaos.conftest import STREAM_TAG, TAG, asked, serving
from tests.conftest import Figure

from ner.v1 import tagger_pb2 as pb
from nermodel import DEFAULT
from nermodel.checkpoint import load
from nermodel.native import NativeError, NativeTagger, Precision, is_int8_fast

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]
STREAMS = 64
REQUESTS = 1000  # of each stream
ROUNDS = 4  # in which each stream asks for its share of the sentences
SECRET = "Zyxgeheim"  # in every bad input, and in no log and no error
Tagged = tuple[bytes, list[tuple[int, int, str]]]


def tagged(outcome: pb.Outcome) -> Tagged:
    """The tags and entities of an outcome."""
    return outcome.tagged.tags.ids, [(each.start, each.end, each.label) for each in outcome.tagged.entities]


def references(sentences: Iterable[Sequence[str]], precision: Precision) -> list[Tagged]:
    """What the embedded model says of each sentence, one at a time, in this process."""
    tagger = NativeTagger(load(DEFAULT, torch.device("cpu")), 1, precision)
    answers = [tagger.tag([words], [None])[0] for words in sentences]
    return [(answer.tags, [entity[:3] for entity in answer.entities]) for answer in answers]


async def replies(channel: grpc.aio.Channel, requests: Sequence[pb.TagRequest | bytes]) -> list[pb.TagResponse]:
    """The replies of a stream, which is half-closed after these requests and has to end well."""
    call: Any = channel.stream_stream(STREAM_TAG, response_deserializer=pb.TagResponse.FromString)()

    async def write() -> None:
        for request in requests:
            await call.write(request if isinstance(request, bytes) else request.SerializeToString())
        await call.done_writing()

    writer = asyncio.create_task(write())
    found = [reply async for reply in call]
    await writer
    assert await call.code() is grpc.StatusCode.OK
    return found


@pytest.mark.parametrize("precision", ["int8", "float32"])
async def test_company(precision: Precision, tmp_path: Path, sentences: list[list[str]], figure: Figure) -> None:
    """Tags do not depend on batch mates."""
    try:
        assert precision == "float32" or is_int8_fast()
    except (AssertionError, NativeError):
        pytest.skip("int8 is not fast here")
    expected = references(sentences, precision)
    rng = random.Random(5)
    asked_for = 0

    def requests(rows: Sequence[int], most: int) -> list[tuple[pb.TagRequest, Sequence[int]]]:
        """Requests of 1 to `most` of the sentences, some with scores, which are other work in the same batch."""
        rest = list(rows)
        made: list[tuple[pb.TagRequest, Sequence[int]]] = []
        while rest:
            size = rng.randint(1, most)
            some, rest = rest[:size], rest[size:]
            made.append((asked([sentences[row] for row in some], scores=rng.random() < 0.3), some))
        return made

    def mismatches(rows: Iterable[int], found: Iterable[pb.TagResponse]) -> int:
        nonlocal asked_for
        got = [tagged(outcome) for reply in found for outcome in reply.outcomes]
        pairs = list(zip(rows, got, strict=True))
        asked_for += len(pairs)
        return sum(each != expected[row] for row, each in pairs)

    with serving(tmp_path / "log", options=["--precision", precision]) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            tag: Any = channel.unary_unary(TAG, pb.TagRequest.SerializeToString, pb.TagResponse.FromString)
            everything = range(len(sentences))
            alone = mismatches(everything, [await tag(asked([words])) for words in sentences])
            made = requests(rng.sample(everything, len(sentences)), 128)
            found = await asyncio.gather(*(tag(each) for each, _ in made))
            mixed = sum(mismatches(rows, [reply]) for (_, rows), reply in zip(made, found, strict=True))

            async def stream(rows: Sequence[int]) -> int:
                made = requests(rows, 4)
                return mismatches(rows, await replies(channel, [each for each, _ in made]))

            streamed = 0
            for _ in range(ROUNDS):
                order = rng.sample(everything, len(sentences))
                streamed += sum(await asyncio.gather(*(stream(order[first::STREAMS]) for first in range(STREAMS))))
    figure(
        f"{precision}: mismatches alone {alone}, in random batches {mixed}, under {STREAMS} streams {streamed}, "
        f"of {asked_for:,} answers"
    )
    assert (alone, mixed, streamed) == (0, 0, 0)


async def test_order(tmp_path: Path, sentences: list[list[str]], figure: Figure) -> None:
    """One reply per request, in order, ids echoed."""
    short = [words for words in sentences if len(words) <= 12]
    expected = references(short, "float32")
    counts = dict.fromkeys(("lost", "doubled", "reordered", "wrong"), 0)

    async def stream(channel: grpc.aio.Channel, number: int) -> None:
        ordering = pb.ORDERING_COMPLETION if number % 2 else pb.ORDERING_REQUEST
        rows = [(number * 37 + row) % len(short) for row in range(REQUESTS)]
        requests = [asked([short[row]], f"{number}/{place}", ordering=ordering) for place, row in enumerate(rows)]
        found = await replies(channel, requests)
        places = [int(reply.id.removeprefix(f"{number}/")) for reply in found]
        counts["lost"] += len(set(range(REQUESTS)) - set(places))
        counts["doubled"] += len(places) - len(set(places))
        counts["reordered"] += 0 if number % 2 else sum(a > b for a, b in zip(places, sorted(places), strict=True))
        counts["wrong"] += sum(
            [tagged(outcome) for outcome in reply.outcomes] != [expected[rows[place]]]
            for place, reply in zip(places, found, strict=True)
        )

    with serving(tmp_path / "log", options=["--precision", "float32"]) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            await asyncio.gather(*(stream(channel, number) for number in range(STREAMS)))
    figure(
        f"{STREAMS} streams x {REQUESTS}, half of them by completion: "
        + ", ".join(f"{name} {count}" for name, count in counts.items())
    )
    assert set(counts.values()) == {0}


def text(content: str) -> pb.Input:
    return pb.Input(text=content)


def tokens(*content: str) -> pb.Input:
    return pb.Input(tokens=pb.Tokens(tokens=content))


# What is odd or wrong with an input, and the limit it breaks, if it does.
ODD: dict[str, tuple[pb.Input, str]] = {
    "unset": (pb.Input(), ""),
    "empty": (text(""), ""),
    "white space": (text(" \n\t\u2003 "), ""),
    "zero width": (text("\u200b\u200d\ufeff\u2060"), ""),
    "NUL": (text(f"{SECRET} \0 met \0\0 Acme."), ""),
    "emoji": (text(f"\U0001f469\u200d\U0001f680 {SECRET} \U0001f1f8\U0001f1ee \U0001f44d\U0001f3fd."), ""),
    "combining": (text(f"{SECRET} e{chr(0x301) * 1000}"), ""),
    "control": (text("\x1b[2J\x07\u202e" + SECRET), ""),
    "noncharacters": (text(f"\uffff\ufffe\U0010ffff\ue000 {SECRET}"), ""),
    "long word": (text(SECRET + "x" * 10_000), ""),
    "long word as token": (tokens("Mr.", SECRET + "x" * 10_000, "left"), ""),
    "no tokens": (tokens(), ""),
    "empty tokens": (tokens("", "", SECRET), ""),
    "blank tokens": (tokens(" ", "\n", "\0", SECRET), ""),
    "too many bytes": (text(f"{SECRET} said so. " * 60_000), "max_text_bytes"),
    "too many tokens": (tokens(*[SECRET] * 4097), "max_sentence_tokens"),
    "too many tokens in a text": (text(f"{SECRET} " * 4097), "max_sentence_tokens"),
}
# A lone surrogate, half a character, an overlong one, and what is never a byte of UTF-8.
NOT_UNICODE = (b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\xaf\xc0", b"\xff\xfe\xff")


def mixed(good: Sequence[Sequence[str]], rng: random.Random) -> tuple[bytes, list[str | None]]:
    """A request of the good sentences in order with all odd inputs strewn among them, and the odd ones' names."""
    names: list[str | None] = [None] * len(good)
    for name in ODD:
        names.insert(rng.randint(0, len(names)), name)
    rest = iter(good)
    inputs = [tokens(*next(rest)) if name is None else ODD[name][0] for name in names]
    return pb.TagRequest(inputs=inputs, options=pb.TagOptions(tags=True)).SerializeToString(), names


def faults(reply: pb.TagResponse, names: Sequence[str | None], expected: Iterable[Tagged]) -> list[str]:
    """What is answered otherwise than is due, by name; "good" is one of the good sentences."""
    references = iter(expected)
    found = []
    for name, outcome in zip(names, reply.outcomes, strict=True):
        if name is None:
            as_due = tagged(outcome) == next(references)
        elif limit := ODD[name][1]:
            as_due = is_refusal(outcome.error.code, outcome.error.message) and limit in outcome.error.message
        else:
            as_due = outcome.HasField("tagged")
        if not as_due:
            found.append(name or "good")
    return found


def is_refusal(code: int, message: str) -> bool:
    """Whether it is INVALID_ARGUMENT and keeps the caller's text to itself."""
    return code == grpc.StatusCode.INVALID_ARGUMENT.value[0] and SECRET not in message


async def test_bad_inputs(tmp_path: Path, sentences: list[list[str]], figure: Figure) -> None:
    """A bad input fails alone."""
    good = sentences[: 3 * (len(ODD) + 1)]
    expected = references(good, "float32")
    rng = random.Random(5)
    words = [(bad, asked([["x" * len(bad), SECRET]]).SerializeToString()) for bad in NOT_UNICODE]
    bad_bytes = [data.replace(b"x" * len(bad), bad) for bad, data in words]
    bad_bytes += [b"\xff" * 20, asked(good).SerializeToString()[:-3], b"\x12\xff\xff\xff\xff\x0f"]
    found: list[str] = []
    mixes = 0

    async def stream(channel: grpc.aio.Channel) -> None:
        """Mixed requests, and before each one bytes that are none."""
        nonlocal mixes
        mixes += 3
        made = [mixed(good, rng) for _ in range(3)]
        answers = await replies(channel, [each for data, _ in made for each in (rng.choice(bad_bytes), data)])
        found.extend("bytes" for each in answers[::2] if not is_refusal(each.error.code, each.error.message))
        for (_, names), reply in zip(made, answers[1::2], strict=True):
            found.extend(faults(reply, names, expected))

    async def calls(channel: grpc.aio.Channel) -> None:
        """The same, a call each."""
        nonlocal mixes
        tag: Any = channel.unary_unary(TAG, response_deserializer=pb.TagResponse.FromString)
        for bad in bad_bytes:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await tag(bad)
            if not is_refusal(refused.value.code().value[0], str(refused.value.details())):
                found.append("bytes")
            data, names = mixed(good, rng)
            found.extend(faults(await tag(data), names, expected))
            mixes += 1

    with serving(tmp_path / "log", options=["--precision", "float32"]) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            await asyncio.gather(*(stream(channel) for _ in range(4)), calls(channel))
        log = server.log.read_text()
    figure(
        f"{len(ODD) + len(bad_bytes)} kinds: {found.count('good')} of {mixes * len(good):,} good answers spoilt, "
        f"{len(found) - found.count('good')} of {mixes * (len(ODD) + 1):,} bad ones answered otherwise than is due"
    )
    assert found == []
    assert SECRET not in log
    assert "Traceback" not in log
