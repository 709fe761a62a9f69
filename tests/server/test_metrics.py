"""What the server counts, as Prometheus reads it."""

import asyncio
import time
from typing import Any

import grpc.aio
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ner.v1 import tagger_pb2 as pb
from nerserver.metrics import LAG_EVERY_S

GOOD = pb.TagRequest(inputs=[pb.Input(text="Ada met Acme."), pb.Input(tokens=pb.Tokens(tokens=["Ada"]))])
BAD_INPUT = pb.TagRequest(inputs=[pb.Input(text="Ada"), pb.Input(text="x" * 2000)])
INVALID = pb.TagRequest(id="i" * 1000)


def read(running: Any) -> dict[str, float]:
    """Every sample as `name{label=value}` without the prefix of ours."""
    text = generate_latest(running.server.metrics.registry).decode()
    return {
        sample.name.removeprefix("nerserver_") + "".join(f",{each}" for each in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_what_was_asked_and_what_became_of_it(serve: Any, until: Any) -> None:
    """Requests count by method and outcome, sentences and tokens by what was tagged, and times have a sample each."""
    async with serve(max_text_bytes=1000) as running:
        before = read(running)
        assert len((await running.stub.Tag(GOOD)).outcomes) == 2
        await running.stub.Tag(BAD_INPUT)
        with pytest.raises(grpc.aio.AioRpcError):
            await running.stub.Tag(INVALID)
        stream = running.stub.StreamTag()
        for request in (GOOD, INVALID):
            await stream.write(request)
            await stream.read()
        during = read(running)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        await until(lambda: not running.server._service.calls)
        after = read(running)
    assert before["model,en/000001"] == after["model,en/000001"] == 1
    assert after["requests_total,Tag,ok,"] == 2
    assert after["requests_total,Tag,refused,Invalid"] == after["requests_total,StreamTag,refused,Invalid"] == 1
    assert after["requests_total,StreamTag,ok,"] == 1
    assert after["bad_inputs_total,refused"] == 1
    assert after["sentences_total"] == 5
    assert after["tokens_total"] == 4 + 1 + 1 + 4 + 1
    assert after["padded_tokens_total"] == 8 + 1 + 8
    assert after["batch_sentences_count"] == after["compute_seconds_count"] == after["queue_seconds_count"] == 3
    assert after["reply_seconds_count"] == 3
    assert (during["calls"], during["streams"], after["calls"]) == (1, 1, 0)


async def test_who_leaves_and_who_waits(serve: Any, until: Any) -> None:
    """A caller who leaves is counted so, and what waits for the engine is seen until then."""
    async with serve() as running:
        with running.engine_held():
            call = asyncio.ensure_future(running.stub.Tag(GOOD))
            await until(lambda: read(running)["calls"] and not read(running)["waiting_tokens"])
            second = asyncio.ensure_future(running.stub.Tag(GOOD))
            await until(lambda: read(running)["waiting_tokens"])
            call.cancel()
            second.cancel()
            await until(lambda: read(running).get("requests_total,Tag,cancelled,") == 2)
        assert read(running)["waiting_tokens"] == 0


async def test_every_request_of_a_stream_counts_once(serve: Any, until: Any) -> None:
    """What a stream read is counted as answered when its reply is sent, or else as cancelled, and never as both."""
    async with serve() as running:
        stream = running.stub.StreamTag()
        await stream.write(GOOD)
        await stream.read()
        with running.engine_held():
            for _ in range(3):
                await stream.write(GOOD)
            await until(lambda: sum(each.unanswered for each in running.server._service._streams) == 3)
            stream.cancel()
            await until(lambda: not running.server._service.calls)
        counts = read(running)
    assert {name: count for name, count in counts.items() if name.startswith("requests_total,StreamTag")} == {
        "requests_total,StreamTag,ok,": 1,
        "requests_total,StreamTag,cancelled,": 3,
    }


async def test_a_late_event_loop_is_seen(serve: Any, until: Any) -> None:
    """The lag of the event loop is measured all the time: what blocks the loop is in it."""
    async with serve() as running:
        await until(lambda: read(running)["event_loop_lag_seconds_count"])
        before = read(running)["event_loop_lag_seconds_sum"]
        time.sleep(3 * LAG_EVERY_S)  # noqa: ASYNC251 it blocks the server's loop, which is this one
        counted = read(running)["event_loop_lag_seconds_count"]
        await until(lambda: read(running)["event_loop_lag_seconds_count"] > counted)
        assert read(running)["event_loop_lag_seconds_sum"] - before > LAG_EVERY_S
