"""Client.tag, model, health and SyncClient; what errors say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health_aio
from hypothesis import given
from hypothesis import strategies as st

from ner.v1 import tagger_pb2 as pb
from nerclient import (
    Client,
    DeadlineExceeded,
    Entity,
    Input,
    InternalError,
    InvalidInput,
    Limits,
    NotFound,
    ProtocolError,
    Refused,
    ResourceExhausted,
    Retry,
    SyncClient,
    Token,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from nerclient.status import from_rpc_error
from nerclient.wire import pack

if TYPE_CHECKING:
    from tests.client.conftest import Server


async def test_one_text_gives_one_result(client: Client) -> None:
    """A str is answered by its result alone."""
    result = await client.tag("so Steve Jobs left")
    assert result.entities == (Entity(3, 13, "ORG", "Steve Jobs"),)
    assert result.input == "so Steve Jobs left"
    assert result.model_version == "en/000001"
    assert result.tokens is None
    assert result.error is None


async def test_one_bad_text_raises(client: Client) -> None:
    """A str that cannot be tagged raises its error, since there is no neighbour to spare."""
    with pytest.raises(InvalidInput, match="max_sentence_tokens"):
        await client.tag("POISON")


@pytest.mark.parametrize(
    "text", ["naïve Zoë läuft", "🙂 Ada 🙂 Bo", "e\u0301 Élan", "\u2028Ada\u2028", "a\x00 Bo", "日本 Ada"]
)
async def test_offsets_count_code_points(client: Client, text: str) -> None:
    """`text[start:end]` is the entity, whatever the width of what stands before it."""
    result = await client.tag(text, tags=True)
    assert result.entities
    assert all(text[entity.start : entity.end] == entity.text for entity in result.entities)
    assert result.tokens is not None
    assert [token.text for token in result.tokens] == text.split()


async def test_tokens_tags_and_scores(client: Client) -> None:
    """Over tokens the offsets count tokens, the surface joins them, and tags and scores come when asked for."""
    [result] = await client.tag([["then", "Ada", "Byron", "left"]], tags=True, scores=True)
    assert result.entities == (Entity(1, 3, "ORG", "Ada Byron", 0.5),)
    assert result.tokens == (
        Token(0, 1, "then", "O"),
        Token(1, 2, "Ada", "B-ORG"),
        Token(2, 3, "Byron", "I-ORG"),
        Token(3, 4, "left", "O"),
    )


async def test_entities_of_a_least_probability(client: Client) -> None:
    """All that are so probable come with their scores, also where they overlap, in one call and on a stream."""
    expected = (Entity(0, 3, "ORG", "Ada", 0.5), Entity(0, 3, "MISC", "Ada", 0.25))
    assert (await client.tag("Ada", min_probability=0.25)).entities == expected
    assert [result.entities async for result in client.stream(["Ada"], min_probability=0.25)] == [expected]
    assert (await client.tag("Ada", min_probability=0.3)).entities == expected[:1]


@pytest.mark.parametrize("least", [0, 0.0001, 1.5, -1, float("nan")])
async def test_a_senseless_probability(client: Client, server: Server, least: float) -> None:
    """A least probability that no server takes is refused before anything is sent."""
    with pytest.raises(ValueError, match=r"min_probability is .*, expected one from 0\.001 to 1"):
        await client.tag("Ada", min_probability=least)
    with pytest.raises(ValueError, match="min_probability"):
        await anext(client.stream(["Ada"], min_probability=least))
    assert server.tagger.model_calls == server.tagger.requests == []


async def test_many_inputs_are_split_by_the_limits(client: Client, server: Server) -> None:
    """Requests keep to max_inputs and max_request_bytes, and the results keep their order."""
    inputs = [f"Name{i}" if i % 10 else "x" * 40_000 for i in range(300)]
    results = await client.tag(inputs)
    assert [result.input for result in results] == inputs
    assert all(len(request.inputs) <= 64 and request.ByteSize() <= 100_000 for request in server.tagger.requests)


async def test_bad_inputs_among_good(client: Client) -> None:
    """In a list, errors stand in their inputs' places."""
    results = await client.tag(["Ada", "\ud800", "POISON", "Ada"])
    assert [type(result.error) for result in results] == [type(None), InvalidInput, InvalidInput, type(None)]


@pytest.mark.parametrize("given", [[], [[]], [""], ["", []], [["", ""], [""]], [["a\nb"], ["Ada"]]])
async def test_edges(client: Client, given: list[Input]) -> None:
    """No inputs, empty ones, and tokens that hold nothing or a line feed are answered like any other."""
    results = await client.tag(given, tags=True)
    assert [result.input for result in results] == given
    assert [result.error for result in results] == [None] * len(given)
    assert [len(result.tokens or ()) for result in results] == [len(tokens) for tokens in given]


words = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6)


@given(
    inputs=st.lists(st.text(max_size=40) | words | st.just("x" * 500), max_size=40),
    most_inputs=st.integers(1, 8),
    most_bytes=st.integers(50, 400),
)
def test_packing_keeps_everything(inputs: list[Input], most_inputs: int, most_bytes: int) -> None:
    """Requests hold every input once and in order, within their bounds, and nothing is sent that is over a limit."""
    limits = Limits(8, max_request_bytes=450, max_text_bytes=100, max_sentence_tokens=1000, stream_window=1024)
    requests = pack(
        inputs, limits, pb.TagOptions(tags=True), iter(range(10**9)), most_inputs=most_inputs, most_bytes=most_bytes
    )
    assert [item.input for request in requests for item in request.items] == inputs
    for request in requests:
        good = [item for item in request.items if item.error is None]
        assert (request.message is None) == (not good)
        assert len(request.items) <= most_inputs
        if request.message is not None:
            assert request.message.ByteSize() <= 450
            assert len(request.message.inputs) + len(request.message.packed.lengths) == len(good)
            tokens = request.message.packed.tokens.split("\n")
            if request.message.HasField("packed") and any(request.message.packed.lengths):
                assert tokens == [token for item in good for token in item.input]


async def test_full_is_retried_after_the_delay_asked_for(client: Client, server: Server) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo is tried again, as often as the timeout allows."""
    server.tagger.busy = [0.01] * 4
    assert (await client.tag("Ada")).entities
    assert len(server.tagger.requests) == 5


@pytest.mark.parametrize("delay_s", [None, 1000.0])
async def test_full_beyond_the_timeout_raises(client: Client, server: Server, delay_s: float | None) -> None:
    """A full server that names no delay, or one beyond the timeout, is an error at once."""
    server.tagger.busy = [delay_s]
    with pytest.raises(ResourceExhausted, match="is full: the queue is full") as caught:
        await client.tag("Ada")
    assert caught.value.retry_after_s == delay_s


async def test_full_without_a_wait_is_not_hammered(server: Server) -> None:
    """Where a full server asks for no wait at all, the client's own patience holds."""
    server.tagger.busy = [0.0]
    async with Client(server.address, retry=Retry(first_s=1000)) as client:
        with pytest.raises(ResourceExhausted):
            await client.tag("Ada")


async def test_a_slow_server_runs_into_the_timeout(server: Server) -> None:
    """A call that takes longer than `timeout_s` raises DeadlineExceeded."""
    server.tagger.gate.clear()
    async with Client(server.address, timeout_s=0.3) as client:
        with pytest.raises(DeadlineExceeded, match="no answer from"):
            await client.tag("Ada")


async def test_cancelling_a_call(client: Client, server: Server) -> None:
    """A cancelled call raises CancelledError, not an error of ours."""
    server.tagger.gate.clear()
    call = asyncio.create_task(client.tag("Ada"))
    await server.tagger.until_received(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.UNIMPLEMENTED, Unimplemented),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.FAILED_PRECONDITION, Refused),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNKNOWN, InternalError),
    ],
)
async def test_status_codes_become_typed_errors(
    client: Client, server: Server, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    """Each status has its class, and the server's words are kept on one line."""
    server.tagger.unary_error = (code, "what is wrong\n and what to do")
    with pytest.raises(kind, match="what is wrong and what to do"):
        await client.tag("Ada")


async def test_unavailable_is_retried_once_reached(client: Client, server: Server) -> None:
    """A server that has answered before is given the attempts of `retry`."""
    await client.model()
    server.tagger.unary_error = (grpc.StatusCode.UNAVAILABLE, "no model is loaded")
    with pytest.raises(Unavailable, match="no model is loaded"):
        await client.tag("Ada")
    assert len(server.tagger.requests) == 5


async def test_a_restarted_server_is_asked_for_its_limits(client: Client, server: Server) -> None:
    """After the connection broke, inputs are held to the limits of the server that answers now."""
    assert await client.tag("x" * 100)
    await server.restart()
    assert await client.health() == "SERVING"
    with pytest.raises(InvalidInput, match="max_text_bytes of 10:"):
        await client.tag("x" * 100)


async def test_a_restarted_server_is_asked_for_its_tags(client: Client, server: Server) -> None:
    """After the connection broke, tags are read by the new table, also where the version's name is the same."""
    await client.model()
    server.tagger.version = "en/000002"
    before = await client.tag("so Ada", tags=True)
    server.tagger.version = "en/000001"
    await server.restart()
    await client.model()
    server.tagger.version = "en/000002"
    assert await client.tag("so Ada", tags=True) == before
    assert before.tokens == (Token(0, 2, "so", "O"), Token(3, 6, "Ada", "B-ORG"))


async def test_too_large_is_not_called_full(client: Client, server: Server) -> None:
    """A message over gRPC's own bound is named as too large, with what to do."""
    server.tagger.limits.max_text_bytes = server.tagger.limits.max_request_bytes = 10_000_000
    with pytest.raises(ResourceExhausted, match="is too large: send fewer inputs, or shorter ones"):
        await client.tag("x" * 5_000_000)


async def test_a_call_that_the_server_cancels(client: Client, server: Server) -> None:
    """CANCELLED from the other side is Unavailable, since a server that stops says so; it is not CancelledError."""
    server.tagger.unary_error = (grpc.StatusCode.CANCELLED, "")
    with pytest.raises(Unavailable, match="cancelled the call"):
        await client.tag("Ada")


async def test_a_forged_answer_is_a_protocol_error(client: Client, server: Server) -> None:
    """An answer with another id than the request's is refused."""
    server.tagger.forge = {"id": "2"}
    with pytest.raises(ProtocolError):
        await client.tag("Ada")


async def test_model(client: Client) -> None:
    """The model's description comes as plain values."""
    model = await client.model()
    assert model.version == "en/000001"
    assert model.labels == ("ORG", "PER")
    assert model.metrics == {"dev_f1": 0.5}
    assert model.limits.max_text_bytes == 50_000
    assert model.create_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with pytest.raises(NotFound, match="en/000099"):
        await client.model("en/000099")


async def test_health(client: Client, server: Server) -> None:
    """The health service's word is passed on."""
    assert await client.health() == "SERVING"
    await server.set_health("NOT_SERVING")
    assert await client.health() == "NOT_SERVING"


async def test_health_of_a_server_that_knows_no_such_service() -> None:
    """A health service that has never heard of ner.v1 gives SERVICE_UNKNOWN, not an error."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(grpc_health_aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}") as client:
        assert await client.health() == "SERVICE_UNKNOWN"
    await server.stop(0)


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "localhost:", "localhost:http", "h:0", "h:65536", "http://h:1", ":1", "::1:50051", "unix:/a"],
)
def test_bad_addresses(address: str) -> None:
    """An address of another form than HOST:PORT is refused before anything is sent."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        Client(address)


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("failed to connect to all addresses; last error: X: Connection refused", "no server listens at h:1"),
        ("errors resolving h:1: [field:hostname lookup error: Domain name not found]", "host name in h:1 cannot be"),
        ("failed to connect to all addresses; last error: Failed parsing HTTP/2 (http1.x)", "does not speak gRPC"),
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4: Socket closed", "--tls if it speaks TLS"),
        ("failed to connect to all addresses; last error: tcp handshaker timed out", "h:1"),
        ("failed to connect to all addresses; last error: No route to host", "cannot connect to h:1"),
        ("Socket closed", "connection to h:1 broke"),
        ("ping timeout", "connection to h:1 broke"),
        ("no model is loaded", "server at h:1 is unavailable: no model is loaded"),
        ("", "server at h:1 is unavailable: try again later"),
    ],
)
def test_unavailable_says_why(details: str, words: str) -> None:
    """gRPC's noise becomes one sentence that names the address."""
    none = grpc.aio.Metadata()
    error = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details), "h:1")
    assert isinstance(error, Unavailable)
    assert words in str(error)


async def test_a_client_outside_its_context_says_so(server: Server) -> None:
    """Before `async with` and after it, a call is a clear mistake of the caller's."""
    client = Client(server.address)
    with pytest.raises(RuntimeError, match="inside `async with"):
        await client.tag("Ada")
    async with client:
        await client.tag("Ada")
    with pytest.raises(RuntimeError, match="inside `async with"):
        await client.health()


@pytest.mark.parametrize("address", ["h:1", "127.0.0.1:65535", "[::1]:50051"])
def test_good_addresses(address: str) -> None:
    """A host is a name, an IPv4 address, or an IPv6 address in brackets."""
    assert Client(address).connection.address == address


def test_a_blocking_client_outside_its_context_says_so() -> None:
    """Before `with` and after it, every call of SyncClient is the same clear mistake."""

    def refused(client: SyncClient) -> None:
        for call in (lambda: client.tag("Ada"), lambda: next(client.stream(["Ada"])), client.model, client.health):
            with pytest.raises(RuntimeError, match="inside `with SyncClient"):
                call()

    client = SyncClient("127.0.0.1:1")
    refused(client)
    with client:
        pass
    refused(client)


async def test_a_server_that_was_never_reached_fails_at_once() -> None:
    """Where nothing listens, the first call raises without retries."""
    async with Client("127.0.0.1:1", retry=Retry(first_s=1000)) as client:
        with pytest.raises(Unavailable, match=r"no server listens at 127\.0\.0\.1:1"):
            await anext(client.stream(["Ada"]))


async def test_another_service_is_named_as_such() -> None:
    """A gRPC server without ner.v1 is recognised."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(Unimplemented, match=r"does not offer ner\.v1"):
            await client.tag("Ada")
    await server.stop(0)


async def test_the_blocking_client_does_the_same(server: Server) -> None:
    """SyncClient tags, streams and describes, with the source read elsewhere and errors raised here."""
    answered = threading.Semaphore(0)

    def source() -> Iterator[str]:
        for i in range(100):
            yield f"Name{i}"
            assert answered.acquire(timeout=10)

    def use() -> None:
        with SyncClient(server.address) as client:
            assert client.tag("Ada").entities[0].text == "Ada"
            assert [result.error for result in client.tag(["Ada", ["Ada"]])] == [None, None]
            [streamed] = client.stream(["Ada"], min_probability=0.2)
            assert client.tag("Ada", min_probability=0.2) == streamed
            assert [entity.score for entity in streamed.entities] == [0.5, 0.25]
            results = []
            for result in client.stream(source()):
                results.append(result.input)
                answered.release()
            assert results == [f"Name{i}" for i in range(100)]
            assert client.model().name == "en"
            assert client.health() == "SERVING"
            with pytest.raises(InvalidInput):
                client.tag("POISON")

    await asyncio.to_thread(use)


async def test_the_blocking_stream_can_be_left(server: Server) -> None:
    """Leaving the loop early ends the call, and the client can be used and closed after."""

    def endless() -> Iterator[str]:
        while True:
            yield "Ada"

    def use() -> None:
        with SyncClient(server.address) as client:
            for _ in client.stream(endless(), window=10):
                break
            assert client.tag("Ada").entities

    await asyncio.to_thread(use)
    await asyncio.wait_for(server.tagger.ended.wait(), 10)
