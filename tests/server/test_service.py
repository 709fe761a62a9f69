"""The service over real gRPC: answers, refusals, streams."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ner.v1 import tagger_pb2 as pb
from nermodel.checkpoint import Model, load
from nermodel.tagger import Ask, Entity, Tagger, TorchTagger
from nermodel.tags import tags_to_spans
from nermodel.text import split_sentences, tokenize
from nermodel.windows import WINDOW_TOKENS

TEXT = "Ada met Babbage in London.\n\nAcme Inc. of the French 😀 city é, met\u200b Ada\0!"
Spans = list[tuple[int, int, str]]


@pytest.fixture
def model(folder: Path) -> Model:
    """The model that serves."""
    return load(folder / "000001.safetensors", torch.device("cpu"))


def texts(*contents: str, **fields: Any) -> pb.TagRequest:
    """A request for raw texts."""
    return pb.TagRequest(inputs=[pb.Input(text=text) for text in contents], **fields)


def tokens(*sentences: Sequence[str], **fields: Any) -> pb.TagRequest:
    """A request for given tokens."""
    return pb.TagRequest(inputs=[pb.Input(tokens=pb.Tokens(tokens=words)) for words in sentences], **fields)


def expected(model: Model, text: str) -> Spans:
    """Entities of a text in code points, tagged one sentence at a time."""
    found = []
    for start, end in split_sentences(text):
        sentence = text[start:end]
        offsets = tokenize(sentence)
        (ids,) = model.tag([[sentence[a:b] for a, b in offsets]])
        for first, last, label in tags_to_spans(model.tags[tag] for tag in ids):
            found.append((start + offsets[first][0], start + offsets[last - 1][1], label))
    return found


def expected_tokens(model: Model, words: Sequence[str]) -> Spans:
    """Entities of given tokens."""
    (ids,) = model.tag([words])
    return list(tags_to_spans(model.tags[tag] for tag in ids))


def entities(outcome: pb.Outcome) -> Spans:
    """The entities of an outcome, which must be an answer."""
    assert outcome.WhichOneof("result") == "tagged"
    return [(each.start, each.end, each.label) for each in outcome.tagged.entities]


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_text(serve: Any, model: Model) -> None:
    """Entities of raw text lie where tagging each of its sentences alone finds them."""
    async with serve() as running:
        answer = await running.stub.Tag(texts(TEXT, "", " \n\n ", id="7"))
    assert (answer.id, answer.model_version) == ("7", "en/000001")
    assert [entities(outcome) for outcome in answer.outcomes] == [expected(model, TEXT), [], []]
    assert expected(model, TEXT)
    assert answer.timing.compute_us > 0
    assert answer.timing.tokenize_us > 0
    assert answer.timing.batch_size == 2


async def test_long_text(serve: Any, model: Model) -> None:
    """A long text is answered as a short one is, in any unit."""
    text = TEXT * 300
    options = pb.TagOptions(offset_unit=pb.OFFSET_UNIT_UTF8_BYTE)
    async with serve() as running:
        first, second = await asyncio.gather(
            running.stub.Tag(texts(text)), running.stub.Tag(texts(text, options=options))
        )
    assert entities(first.outcomes[0]) == expected(model, text)
    surfaces = [text.encode()[start:end].decode() for start, end, _ in entities(second.outcomes[0])]
    assert surfaces == [text[start:end] for start, end, _ in expected(model, text)]


@given(st.lists(st.sampled_from([*TEXT.split(" "), "\n", "中"]), max_size=30).map(" ".join))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_units(serve: Any, model: Model, text: str) -> None:
    """In every unit an entity's offsets cut out the same surface, and tags cover the same tokens."""

    async def ask() -> list[Any]:
        async with serve() as running:
            return [
                await running.stub.Tag(texts(text, options=pb.TagOptions(offset_unit=unit, tags=True)))
                for unit in (pb.OFFSET_UNIT_CODE_POINT, pb.OFFSET_UNIT_UTF8_BYTE, pb.OFFSET_UNIT_UTF16_UNIT)
            ]

    points, octets, units = (answer.outcomes[0] for answer in asyncio.run(ask()))
    surfaces = [text[start:end] for start, end, _ in expected(model, text)]
    assert [text[start:end] for start, end, _ in entities(points)] == surfaces
    assert [text.encode()[start:end].decode() for start, end, _ in entities(octets)] == surfaces
    utf16 = text.encode("utf-16-le")
    assert [utf16[2 * start : 2 * end].decode("utf-16-le") for start, end, _ in entities(units)] == surfaces
    for outcome in (points, octets, units):
        tags = outcome.tagged.tags
        assert len(tags.ids) == len(tags.starts) == len(tags.ends)
        assert tags.ids == points.tagged.tags.ids


ODD_SENTENCES = [
    ["Ada", "met", "Acme"],
    [],
    [""],
    [" ", "Ada"],
    ["\0", "\u200b", "😀"],
    ["x" * 10_000, "London"],
    ["Ada\u0301"],
    ["of"] * 300,
]


async def test_tokens(serve: Any, model: Model) -> None:
    """Entities over given tokens count tokens, whatever the tokens are."""
    async with serve() as running:
        answer = await running.stub.Tag(tokens(*ODD_SENTENCES, options=pb.TagOptions(tags=True)))
    assert [entities(outcome) for outcome in answer.outcomes] == [
        expected_tokens(model, words) for words in ODD_SENTENCES
    ]
    assert [list(outcome.tagged.tags.ids) for outcome in answer.outcomes] == model.tag(ODD_SENTENCES)
    assert not any(outcome.tagged.tags.starts for outcome in answer.outcomes)


async def test_packed(serve: Any) -> None:
    """A packed block is answered as the same lists of tokens."""
    joined = "\n".join(word for words in ODD_SENTENCES for word in words)
    packed = pb.PackedSentences(tokens=joined, lengths=map(len, ODD_SENTENCES))
    async with serve() as running:
        one = await running.stub.Tag(pb.TagRequest(packed=packed))
        other = await running.stub.Tag(tokens(*ODD_SENTENCES))
    assert one.outcomes == other.outcomes


@pytest.mark.parametrize(
    ("options", "ask"),
    [
        (pb.TagOptions(), None),
        (pb.TagOptions(scores=True), 0),
        (pb.TagOptions(min_probability=0.25), 0.25),
        (pb.TagOptions(scores=True, min_probability=0.25, tags=True), 0.25),
    ],
)
async def test_scores(serve: Any, model: Model, options: pb.TagOptions, ask: Ask) -> None:
    """Tag and StreamTag answer what the tagger does: entities with or without scores, or all that are so probable."""
    request = tokens(*ODD_SENTENCES, options=options)
    answers = TorchTagger(model).tag(ODD_SENTENCES, [ask] * len(ODD_SENTENCES))
    async with serve() as running:
        unary = await running.stub.Tag(request)
        (streamed,) = [answer async for answer in running.stub.StreamTag(iter([request]))]
    for response in (unary, streamed):
        found = [list(map(scored, outcome.tagged.entities)) for outcome in response.outcomes]
        assert sum(map(len, found)) >= 5
        for entities_, answer in zip(found, answers, strict=True):
            assert [entity[:3] for entity in entities_] == [entity[:3] for entity in answer.entities]
            expected_scores = [entity.score for entity in answer.entities]
            assert [entity.score for entity in entities_] == pytest.approx(expected_scores, abs=1e-5)


@pytest.mark.parametrize("unit", [pb.OFFSET_UNIT_CODE_POINT, pb.OFFSET_UNIT_UTF8_BYTE, pb.OFFSET_UNIT_UTF16_UNIT])
async def test_overlapping_entities_of_text(serve: Any, model: Model, unit: Any) -> None:
    """Entities that overlap have their offsets in any unit, and the tags are those of the best path."""
    options = pb.TagOptions(min_probability=0.01, tags=True, offset_unit=unit)
    expected_ = []
    for start, end in split_sentences(TEXT):
        offsets = [(start + a, start + b) for a, b in tokenize(TEXT[start:end])]
        (answer,) = TorchTagger(model).tag([[TEXT[a:b] for a, b in offsets]], [0.01])
        expected_ += [(TEXT[offsets[a][0] : offsets[b - 1][1]], label) for a, b, label, _ in answer.entities]
    async with serve() as running:
        ((outcome,), (plain,)) = [
            (await running.stub.Tag(texts(TEXT, options=each))).outcomes
            for each in (options, pb.TagOptions(tags=True, offset_unit=unit))
        ]
    encoding, width = {1: ("utf-32-le", 4), 2: ("utf-8", 1), 3: ("utf-16-le", 2)}[unit]
    data = TEXT.encode(encoding)
    found = [
        (data[width * each.start : width * each.end].decode(encoding), each.label) for each in outcome.tagged.entities
    ]
    assert found == expected_
    spans = [(each.start, each.end) for each in outcome.tagged.entities]
    assert spans == sorted(spans)
    assert any(one[1] > other[0] for one, other in pairwise(spans))
    assert outcome.tagged.tags == plain.tagged.tags


async def test_questions_do_not_mix(serve: Any, model: Model) -> None:
    """In one stream, where requests are batched together, each is answered what it asked."""
    sentences = [words for words in ODD_SENTENCES if words]
    asked = [None, 0.0, 0.3] * 10
    requests = [
        tokens(*sentences, options=pb.TagOptions(scores=ask == 0, min_probability=ask or None)) for ask in asked
    ]
    async with serve() as running:
        answers = [answer async for answer in running.stub.StreamTag(iter(requests))]
    for ask, answer in zip(asked, answers, strict=True):
        found = [scored(entity) for outcome in answer.outcomes for entity in outcome.tagged.entities]
        assert found
        assert {entity.score is None for entity in found} == {ask is None}
        assert all(entity.score is None or entity.score >= (ask or 0) for entity in found)
        counts = [len(answer.entities) for answer in TorchTagger(model).tag(sentences, [ask] * len(sentences))]
        assert [len(outcome.tagged.entities) for outcome in answer.outcomes] == counts


async def test_a_sentence_longer_than_a_window(serve: Any, model: Model) -> None:
    """A sentence of any length is answered whole where max_sentence_tokens lets it in."""
    words = ["Ada", "met", "Acme", "of", "the", "London"] * (WINDOW_TOKENS // 2)
    (answer,) = TorchTagger(model).tag([words], [0])
    async with serve(max_sentence_tokens=len(words)) as running:
        options = pb.TagOptions(tags=True, scores=True)
        (outcome,) = (await running.stub.Tag(tokens(words, options=options))).outcomes
    assert outcome.tagged.tags.ids == answer.tags
    assert len(outcome.tagged.entities) == len(answer.entities) > 1000


def scored(entity: pb.Entity) -> Entity:
    """An entity as the tagger's."""
    return Entity(entity.start, entity.end, entity.label, entity.score if entity.HasField("score") else None)


async def test_empty_request(serve: Any) -> None:
    """A request for nothing is answered with nothing."""
    async with serve() as running:
        answer = await running.stub.Tag(pb.TagRequest(id="x"))
    assert (answer.id, len(answer.outcomes), answer.model_version) == ("x", 0, "en/000001")


async def test_input_beyond_a_limit(serve: Any, model: Model) -> None:
    """An input that breaks a limit has an error that names it, and its neighbours are answered."""
    request = texts("Ada", "é" * 50, "a b c d e f g", "Ada")
    async with serve(max_text_bytes=99, max_sentence_tokens=6) as running:
        answer = await running.stub.Tag(request)
        (given,) = (await running.stub.Tag(tokens(["a"] * 7))).outcomes
    first, long, wide, last = answer.outcomes
    assert entities(first) == entities(last) == expected(model, "Ada")
    assert (long.error.code, wide.error.code, given.error.code) == (3, 3, 3)
    assert "100 bytes, more than max_text_bytes = 99" in long.error.message
    assert "7 tokens, more than max_sentence_tokens = 6" in wide.error.message
    assert "7 tokens, more than max_sentence_tokens = 6" in given.error.message


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (pb.TagRequest(id="x" * 257), grpc.StatusCode.INVALID_ARGUMENT, "id has 257 bytes"),
        (texts("a", model="de"), grpc.StatusCode.INVALID_ARGUMENT, "send 'en' or leave it empty"),
        (
            texts("a", options=pb.TagOptions(min_probability=2)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "TagOptions.min_probability is 2; send one from 0.001 to 1",
        ),
        (
            texts("a", options=pb.TagOptions.FromString(b"\x30\x07")),
            grpc.StatusCode.UNIMPLEMENTED,
            "TagOptions.ordering = 7",
        ),
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "not a ner.v1.TagRequest"),
    ],
)
async def test_refused(serve: Any, request_: pb.TagRequest | bytes, code: grpc.StatusCode, said: str) -> None:
    """Tag ends with a request's error; StreamTag answers it in its place and goes on."""
    data = request_ if isinstance(request_, bytes) else request_.SerializeToString()
    good = texts("Ada", id="good").SerializeToString()
    async with serve() as running:
        unary = running.channel.unary_unary("/ner.v1.Tagger/Tag", response_deserializer=pb.TagResponse.FromString)
        error = await refusal(unary(data))
        stream = running.channel.stream_stream(
            "/ner.v1.Tagger/StreamTag", response_deserializer=pb.TagResponse.FromString
        )
        answers = [answer async for answer in stream(iter([good, data, good]))]
    assert error.code() is code
    assert said in str(error.details())
    assert [answer.HasField("error") for answer in answers] == [False, True, False]
    assert answers[1].error.code == code.value[0]
    assert answers[1].error.message == error.details()
    assert answers[1].id == ("" if isinstance(request_, bytes) else request_.id)


async def test_request_beyond_its_limit(serve: Any) -> None:
    """A request of too many bytes is told the limit's name and value."""
    async with serve(max_request_bytes=1000) as running:
        error = await refusal(running.stub.Tag(texts("x" * 1500)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "max_request_bytes = 1000" in str(error.details())


async def test_get_model(serve: Any, folder: Path, model: Model, publish_tiny: Any, until: Any) -> None:
    """GetModel describes the model that serves and those that served before, with the server's limits."""
    async with serve(max_inputs=5, stream_window=9) as running:
        first = await running.stub.GetModel(pb.GetModelRequest())
        publish_tiny(folder, 2)
        await until(lambda: "en/000002" in running.server.engine.served)
        now = await running.stub.GetModel(pb.GetModelRequest(name="en"))
        before = await running.stub.GetModel(pb.GetModelRequest(version="en/000001"))
        missing = [
            await refusal(running.stub.GetModel(pb.GetModelRequest(name=name, version=version)))
            for name, version in (("de", ""), ("", "en/000009"), ("de", "en/000001"))
        ]
        unary = running.channel.unary_unary("/ner.v1.Tagger/GetModel")
        malformed = await refusal(unary(b"\xff"))
    assert (first.name, first.version, now.version) == ("en", "en/000001", "en/000002")
    assert before == first
    assert tuple(first.labels) == model.labels
    assert tuple(first.tags) == model.tags
    assert dict(first.metrics) == {"dev_f1": 0.5}
    assert first.sha256 == model.sha256
    assert first.create_time.ToJsonString() == model.card.created.replace("+00:00", "Z")
    assert (first.limits.max_inputs, first.limits.stream_window) == (5, 9)
    assert all(error.code() is grpc.StatusCode.NOT_FOUND for error in missing)
    assert malformed.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_many_streams(serve: Any, model: Model) -> None:
    """Over 64 streams at once every answer is in its order, under its id, and its own."""
    sentences = [["Ada", "met"] * (1 + row % 5) + ["London", "Acme"][row % 2 :] for row in range(12)]
    references = [expected_tokens(model, words) for words in sentences]

    async def talk(running: Any, stream: int) -> None:
        rows = [(stream + step) % len(sentences) for step in range(len(sentences))]
        requests = [tokens(sentences[row], sentences[0], id=f"{stream}/{row}") for row in rows]
        answers = [answer async for answer in running.stub.StreamTag(iter(requests))]
        assert [answer.id for answer in answers] == [request.id for request in requests]
        for row, answer in zip(rows, answers, strict=True):
            assert [entities(outcome) for outcome in answer.outcomes] == [references[row], references[0]]

    async with serve() as running:
        await asyncio.gather(*(talk(running, stream) for stream in range(64)))


async def test_completion_order(serve: Any) -> None:
    """Requests that ask for it are answered, in any order; one that asks otherwise in the same stream is refused."""
    options = pb.TagOptions(ordering=pb.ORDERING_COMPLETION, priority=pb.PRIORITY_BULK)
    requests = [texts("Ada", id=str(number), options=options) for number in range(10)]
    async with serve() as running:
        answers = [answer async for answer in running.stub.StreamTag(iter([*requests, texts("Ada", id="other")]))]
    by_id = {answer.id: answer for answer in answers}
    assert len(answers) == len(by_id) == 11
    assert "TagOptions.ordering" in by_id.pop("other").error.message
    assert not any(answer.HasField("error") for answer in by_id.values())


async def test_small_window(serve: Any, model: Model) -> None:
    """With a window of one input even larger requests are answered, one after another."""
    async with serve(stream_window=1) as running:
        requests = [tokens(["Ada"], ["London"], id=str(number)) for number in range(5)]
        answers = [answer async for answer in running.stub.StreamTag(iter(requests))]
    assert [answer.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert all(entities(answer.outcomes[1]) == expected_tokens(model, ["London"]) for answer in answers)


async def test_queue_full(serve: Any) -> None:
    """A full queue refuses Tag with the time to come back, while streams wait and are answered."""
    async with serve(max_queue_tokens=1, max_batch_tokens=1) as running:
        with running.engine_held():
            stream = running.stub.StreamTag(iter([tokens(["Ada"], id=str(number)) for number in range(4)]))
            calls = [asyncio.ensure_future(running.stub.Tag(tokens(["Ada"]))) for _ in range(5)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            error = await refusal(next(iter(done)))
        assert [answer.id async for answer in stream] == ["0", "1", "2", "3"]
        await asyncio.gather(*calls, return_exceptions=True)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(error)
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert 0 < info.retry_delay.ToTimedelta().total_seconds() <= 10


async def test_queue_full_before_splitting(serve: Any, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that a full queue refuses costs no tokenising."""
    async with serve(max_queue_tokens=1) as running:
        service, room = running.server._service, running.server._batcher._rooms[False]
        with running.engine_held():
            calls = [asyncio.ensure_future(running.stub.Tag(tokens(["Ada"])))]
            await until(lambda: service._calls and not room.tokens)
            calls.append(asyncio.ensure_future(running.stub.Tag(tokens(["Ada"]))))
            await until(lambda: room.tokens)
            monkeypatch.setattr("nerserver.service.split_aside", None)
            error = await refusal(running.stub.Tag(texts("Ada")))
        await asyncio.gather(*calls)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_deadline(serve: Any, until: Any) -> None:
    """A call and a stream whose deadline passes end with DEADLINE_EXCEEDED, and what they left is not computed."""
    computed: list[str] = []
    async with serve() as running:
        tag = running.server.engine._tag

        def noted(tagger: Tagger, sentences: list[list[str]], asks: list[Ask]) -> Any:
            computed.extend(word for words in sentences for word in words)
            return tag(tagger, sentences, asks)

        running.server.engine._tag = noted
        with running.engine_held():
            first = asyncio.ensure_future(running.stub.Tag(tokens(["first"])))
            await until(lambda: running.server._service._calls and not running.server._batcher._rooms[False].tokens)
            error = await refusal(running.stub.Tag(tokens(["late"]), timeout=0.2))
            stream = running.stub.StreamTag(iter([tokens(["late"])]), timeout=0.2)
            stream_error = await refusal(stream.read())
        await first
        await running.stub.Tag(tokens(["last"]))
    assert error.code() is stream_error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert computed == ["first", "last"]


async def test_cancelled_stream(serve: Any, until: Any) -> None:
    """A stream that its caller cancels leaves nothing behind and disturbs nobody."""
    async with serve() as running:

        async def endless() -> AsyncGenerator[pb.TagRequest]:
            while True:
                yield tokens(["Ada"] * 5)

        async with aclosing(endless()) as requests:
            stream = running.stub.StreamTag(requests)
            await stream.read()
            stream.cancel()
            await running.server._service.drained()
            await until(lambda: running.server._batcher._rooms[False].tokens == 0)
        assert len((await running.stub.Tag(tokens(["Ada"]))).outcomes) == 1


async def test_poison(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An input that breaks the engine fails alone with an error id; no log and no error repeats its text."""
    with caplog.at_level(logging.DEBUG):
        async with serve() as running:
            tag = running.server.engine._tag

            def poisoned(tagger: Tagger, sentences: list[list[str]], asks: list[Ask]) -> Any:
                for words in sentences:
                    if "arsenic" in words:
                        raise KeyError(*words)
                return tag(tagger, sentences, asks)

            running.server.engine._tag = poisoned
            answer = await running.stub.Tag(texts("Ada met Acme.", "Some arsenic here.", "London"))
    good, bad, other = answer.outcomes
    entities(good), entities(other)
    assert bad.error.code == grpc.StatusCode.INTERNAL.value[0]
    error_id = bad.error.message.split()[2].rstrip(";")
    assert error_id in caplog.text
    assert "KeyError" in caplog.text
    assert "arsenic here" not in caplog.text
    assert "Some" not in caplog.text + bad.error.message


async def test_bug(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A bug of ours is INTERNAL with an error id, in Tag and in a stream that lives on, and never the text's words."""
    with caplog.at_level(logging.DEBUG):
        async with serve() as running:
            submit = running.server._batcher.submit

            def buggy(sentences: list[list[str]], *rest: Any) -> Any:
                if "arsenic" in sentences[0]:
                    raise KeyError(*sentences[0])
                return submit(sentences, *rest)

            running.server._batcher.submit = buggy
            error = await refusal(running.stub.Tag(tokens(["arsenic"])))
            requests = [tokens(["arsenic"], id="bad"), tokens(["Ada"], id="good")]
            bad, good = [answer async for answer in running.stub.StreamTag(iter(requests))]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert (bad.id, bad.error.code) == ("bad", 13)
    assert (good.id, good.HasField("error")) == ("good", False)
    for message in (str(error.details()), bad.error.message):
        assert message.split(";")[0] in caplog.text
        assert "'arsenic'" not in message + caplog.text


async def test_no_model(serve: Any, tmp_path: Path) -> None:
    """Until a model is loaded every call is UNAVAILABLE."""
    (tmp_path / "empty").mkdir()
    async with serve(model=tmp_path / "empty") as running:
        errors = [
            await refusal(running.stub.Tag(texts("a"))),
            await refusal(running.stub.GetModel(pb.GetModelRequest())),
            await refusal(running.stub.StreamTag(iter([texts("a")])).read()),
        ]
    assert [error.code() for error in errors] == [grpc.StatusCode.UNAVAILABLE] * 3
