"""The batcher with a fake engine: what goes together, who is answered, who is refused."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nermodel.tagger import Answer, Ask, Entity
from nerserver.batcher import BULK_EVERY, Batcher, Reply
from nerserver.errors import DeadlineError, Failure, QueueFullError, TooLateError
from nerserver.policy import Budget

Sentences = Sequence[Sequence[str]]


class FakeEngine:
    """Tags each word with its length and fails batches that hold the word "poison"; waits while its gate is closed.

    The score of its one entity is what was asked of the sentence.
    """

    def __init__(self) -> None:
        self.model = "en/000001"
        self.batches: list[list[list[str]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.after: Callable[[], None] = lambda: None

    async def run(self, sentences: Sentences, asks: Sequence[Ask]) -> tuple[list[Answer], str]:
        self.batches.append([list(words) for words in sentences])
        model = self.model
        await self.gate.wait()
        self.after()
        await asyncio.sleep(0)
        for words in sentences:
            if "poison" in words:
                raise RuntimeError(f"cannot do {words}")
        return answers_to(sentences, asks), model


def answers_to(sentences: Sentences, asks: Sequence[Ask]) -> list[Answer]:
    return [
        Answer(bytes(map(len, words)), [Entity(0, 1, "X", ask)]) for words, ask in zip(sentences, asks, strict=True)
    ]


def expected(sentences: Sentences) -> list[list[int]]:
    return [[len(word) for word in words] for words in sentences]


def tags(reply: Reply[str]) -> list[list[int] | None]:
    """The tags of each sentence; None of one that failed."""
    return [None if isinstance(answer, Failure) else list(answer.tags) for answer in reply.answers]


class Clock:
    """A clock that stands still unless told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(batcher: Batcher[str]) -> AsyncIterator[None]:
    """The batcher serving in the background."""
    task = asyncio.create_task(batcher.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


def batcher_of(
    engine: FakeEngine, tokens: int = 1000, sentences: int = 100, queue: int = 10_000, clock: Clock | None = None
) -> Batcher[str]:
    return Batcher(engine.run, Budget(tokens, sentences), queue, clock or Clock())


async def test_a_lone_sentence_goes_at_once() -> None:
    """One sentence makes a batch of one, whatever the budget."""
    engine = FakeEngine()
    batcher = batcher_of(engine)
    async with running(batcher):
        answer = await batcher.tag([["a", "bc"]], "s")
    assert tags(answer) == [[1, 2]]
    assert answer.model == "en/000001"
    assert answer.batch_size == 1


async def test_what_waits_goes_together() -> None:
    """Whatever waits when the engine becomes free is one batch."""
    engine = FakeEngine()
    batcher = batcher_of(engine)
    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(batcher.tag([[str(number)]], number)) for number in range(10)]
        await settle()
        engine.gate.set()
        await asyncio.gather(*calls)
    assert sum(map(len, engine.batches)) == 10
    assert len(engine.batches) <= 2


async def test_each_is_answered_what_it_asked() -> None:
    """Sentences that ask for different things share a batch, and each answer is the one to its own question."""
    engine = FakeEngine()
    batcher = batcher_of(engine)
    asks: list[Ask] = [None, 0, 0.5, 0.25]
    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(batcher.tag([["a"]] * 2, number, ask=ask)) for number, ask in enumerate(asks)]
        await settle()
        engine.gate.set()
        replies = await asyncio.gather(*calls)
    assert max(map(len, engine.batches)) > 2
    for ask, reply in zip(asks, replies, strict=True):
        assert reply.answers == [Answer(b"\1", [Entity(0, 1, "X", ask)])] * 2


some_sentences = st.lists(st.lists(st.sampled_from(["a", "bc", "def"]), min_size=1, max_size=9), max_size=30)


@given(some_sentences, st.integers(1, 40), st.integers(1, 9))
@settings(max_examples=50)
def test_any_budget_gives_the_same_answers(sentences: list[list[str]], tokens: int, count: int) -> None:
    """Answers come in the order of the sentences and do not depend on the budget, which every batch keeps."""

    async def tag() -> FakeEngine:
        engine = FakeEngine()
        batcher = batcher_of(engine, tokens, count)
        async with running(batcher):
            halves = sentences[::2], sentences[1::2]
            answers = await asyncio.gather(*(batcher.tag(half, row, bulk=bool(row)) for row, half in enumerate(halves)))
        assert [tags(answer) for answer in answers] == [expected(half) for half in halves]
        return engine

    engine = asyncio.run(tag())
    for batch in engine.batches:
        assert len(batch) == 1 or (len(batch) <= count and max(map(len, batch)) * len(batch) <= tokens)


async def test_poison_is_found_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A sentence that breaks the engine fails alone, with an error id that the log explains without its text."""
    engine = FakeEngine()
    batcher = batcher_of(engine)
    with caplog.at_level(logging.DEBUG):
        async with running(batcher):
            engine.gate.clear()
            healthy = [asyncio.create_task(batcher.tag([["a"] * n, ["b"]], n)) for n in range(1, 8)]
            sick = asyncio.create_task(batcher.tag([["ok"], ["poison", "private"]], "sick"))
            await settle()
            engine.gate.set()
            for n, call in enumerate(healthy, 1):
                assert tags(await call) == [[1] * n, [1]]
            reply = await sick
    _, failure = reply.answers
    assert tags(reply) == [[2], None]
    assert isinstance(failure, Failure)
    assert failure.error_id in caplog.text
    assert "RuntimeError" in caplog.text
    assert "test_batcher.py" in caplog.text
    assert "poison" not in caplog.text
    assert "private" not in caplog.text


async def test_miscounted_outputs_answer_nobody() -> None:
    """An engine that returns too few answers is never believed."""

    async def run(sentences: Sentences, asks: Sequence[Ask]) -> tuple[list[Answer], str]:
        return answers_to(sentences, asks)[1:], "en/000001"

    batcher: Batcher[str] = Batcher(run, Budget(100, 10), 100)
    async with running(batcher):
        answer = await batcher.tag([["a"], ["b"]], "s")
    assert tags(answer) == [None, None]
    assert answer.model is None


async def test_a_cancelled_caller_hurts_nobody() -> None:
    """Work of a caller that left is not computed, or its answer is dropped, and its neighbours are answered."""
    engine = FakeEngine()
    batcher = batcher_of(engine, sentences=2)
    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(batcher.tag([[f"word{number}"]], number)) for number in range(6)]
        await settle()
        for number in (0, 3, 5):  # one runs, two wait
            calls[number].cancel()
        await settle()
        engine.gate.set()
        for number in (1, 2, 4):
            assert tags(await calls[number]) == [[5]]
        assert tags(await batcher.tag([["later"]], "later")) == [[5]]
    computed = {words[0] for batch in engine.batches for words in batch}
    assert not computed & {"word3", "word5"}


async def test_cancelled_work_leaves_room() -> None:
    """Cancelled work counts no longer against the queue's bound."""
    engine = FakeEngine()
    batcher = batcher_of(engine, queue=3)
    async with running(batcher):
        engine.gate.clear()
        running_call = asyncio.create_task(batcher.tag([["a"]], 0))
        await settle()
        waiting = asyncio.create_task(batcher.tag([["b"] * 3], 1))
        await settle()
        with pytest.raises(QueueFullError):
            await batcher.tag([["c"]], 1)
        waiting.cancel()
        await settle()
        accepted = asyncio.create_task(batcher.tag([["c"]], 1))
        await settle()
        engine.gate.set()
        await asyncio.gather(running_call, accepted)


async def test_expired_work_is_not_computed() -> None:
    """A deadline that passes in the queue, or before it, costs no compute."""
    engine, clock = FakeEngine(), Clock()
    batcher = batcher_of(engine, clock=clock)
    async with running(batcher):
        engine.gate.clear()
        first = asyncio.create_task(batcher.tag([["a"]], 0))
        await settle()
        late = asyncio.create_task(batcher.tag([["late"], ["late", "too"]], 1, deadline=5.0))
        await settle()
        clock.now = 5.0
        engine.gate.set()
        await first
        with pytest.raises(DeadlineError):
            await late
        with pytest.raises(DeadlineError):
            await batcher.tag([["gone"]], 2, deadline=4.0)
    assert engine.batches == [[["a"]]]


async def test_full_queue() -> None:
    """A full queue refuses a call with the time to come back; those that wait get in, in order, as room is made."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=4, queue=4)
    order: list[int] = []

    async def wait_and_tag(number: int) -> None:
        assert tags(await batcher.tag([["x"] * 4], "s", wait=True)) == [[1] * 4]
        order.append(number)

    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(wait_and_tag(number)) for number in range(6)]
        await settle()
        with pytest.raises(QueueFullError) as refused:
            await batcher.tag([["y"]], "s")
        assert 0 < (refused.value.retry_s or 0) <= 10
        engine.gate.set()
        await asyncio.gather(*calls)
    assert order == list(range(6))


async def test_a_full_queue_is_full_for_the_greedy_only() -> None:
    """Whoever fills the queue, alone or with bulk work, keeps no other source out, be it unary or a stream."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=4, queue=4)
    order: list[str] = []

    async def tag(source: str, bulk: bool, wait: bool) -> None:
        await batcher.tag([["x"] * 4], source, bulk=bulk, wait=wait)
        order.append(source)

    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(tag("greedy", False, True)) for _ in range(4)]
        calls += [asyncio.create_task(tag("bulk", True, True)) for _ in range(4)]
        await settle()
        calls += [asyncio.create_task(tag("unary", False, False)), asyncio.create_task(tag("stream", False, True))]
        await settle()
        for source, bulk in (("greedy", False), ("bulk", True)):
            with pytest.raises(QueueFullError):
                await batcher.tag([["y"]], source, bulk=bulk)
        engine.gate.set()
        await asyncio.gather(*calls)
    assert max(order.index("unary"), order.index("stream")) < 4


async def test_bulk_work_does_not_fill_the_interactive_queue() -> None:
    """A source whose bulk work waits may still add interactive work."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=1, queue=1)
    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(batcher.tag([["x"]], "s", bulk=True, wait=True)) for _ in range(3)]
        await settle()
        calls.append(asyncio.create_task(batcher.tag([["x"]], "s")))
        await settle()
        assert not any(call.done() for call in calls)  # a refusal would be
        engine.gate.set()
        await asyncio.gather(*calls)


async def test_check() -> None:
    """A caller may learn that its work would be refused before it prepares any."""
    engine, clock = FakeEngine(), Clock()
    batcher = batcher_of(engine, queue=1, clock=clock)
    batcher.check("s")
    waiting = asyncio.create_task(batcher.tag([["x"]], "s"))
    await settle()
    with pytest.raises(QueueFullError):
        batcher.check("s")
    batcher.check("s", wait=True)
    clock.now = 5.0
    with pytest.raises(DeadlineError):
        batcher.check("other", deadline=5.0, wait=True)
    waiting.cancel()


async def test_what_cannot_be_in_time_is_refused_at_once() -> None:
    """A deadline that what waits ahead would outlast is refused with when to come again; a later one is let in."""
    clock = Clock()
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=10, clock=clock)

    def second_a_batch() -> None:
        clock.now += 1

    engine.after = second_a_batch
    async with running(batcher):
        for _ in range(300):
            await batcher.tag([["a"] * 10], "s")
        engine.gate.clear()
        waiting = [asyncio.create_task(batcher.tag([["a"] * 10], number)) for number in range(20)]
        await settle()
        with pytest.raises(TooLateError) as refused:
            batcher.check("s", clock.now + 10)
        batcher.check("s", clock.now + 60)
        batcher.check("s", clock.now + 10, wait=True)
        with pytest.raises(TooLateError):
            batcher.check("s", clock.now + 10, bulk=True)
        engine.gate.set()
        await asyncio.gather(*waiting)
        batcher.check("s", clock.now + 10)
    assert 5 < (refused.value.retry_s or 0) <= 10


async def test_a_near_deadline_waits_for_those_before_it_alone() -> None:
    """Who would overtake what waits is not refused for its sake."""
    clock = Clock()
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=10, clock=clock)
    async with running(batcher):
        engine.gate.clear()
        first = asyncio.create_task(batcher.tag([["a"] * 10] * 50, "greedy"))
        await settle()
        for _ in range(200):
            batcher._pace.learn(10, 1.0)
        with pytest.raises(TooLateError):
            batcher.check("greedy", clock.now + 5)
        batcher.check("modest", clock.now + 5)
        engine.gate.set()
        await first


async def test_cancelled_while_waiting_for_room() -> None:
    """One that leaves while it waits for room does not take the place of those behind."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=1, queue=1)
    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(batcher.tag([["x"]], "s", wait=True)) for _ in range(5)]
        await settle()
        calls[2].cancel()
        await settle()
        engine.gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert not any(isinstance(answer, BaseException) for answer in answers[:2] + answers[3:])


async def test_one_answer_one_model() -> None:
    """Sentences that were tagged before a swap are tagged again, so that one answer never mixes models."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=1)
    versions = iter(["en/000001", "en/000002", "en/000002", "en/000003"])

    def swap() -> None:
        engine.model = next(versions, "en/000004")

    engine.after = swap
    async with running(batcher):
        answer = await batcher.tag([["a"], ["bb"], ["ccc"]], "s")
    assert tags(answer) == [[1], [2], [3]]
    assert answer.model == "en/000004"
    assert len(engine.batches) > 3


async def test_bulk_fills_and_is_not_starved() -> None:
    """While interactive work never ends, bulk work rides only in room that is left, yet leads a batch now and then."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=4)
    calls: list[asyncio.Task[object]] = []

    def keep_busy() -> None:
        if not bulk.done():
            calls.extend(asyncio.create_task(batcher.tag([["i"] * 4], len(calls) + n)) for n in range(2))

    engine.after = keep_busy
    async with running(batcher):
        engine.gate.clear()
        calls.append(asyncio.create_task(batcher.tag([["i"] * 4], 0)))
        await settle()
        bulk = asyncio.create_task(batcher.tag([["bulk"]], "bulk", bulk=True))
        await settle()
        engine.gate.set()
        await bulk
        await asyncio.gather(*calls)
    assert engine.batches.index([["bulk"]]) <= BULK_EVERY + 2
    assert engine.batches.index([["bulk"]]) > 2


async def test_long_bulk_is_not_starved_by_short_bulk() -> None:
    """A long bulk sentence leads a batch now and then although short bulk work rides in every one."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=4)
    calls: list[asyncio.Task[object]] = []

    def keep_busy() -> None:
        if not long.done() and len(engine.batches) < 10 * BULK_EVERY:
            calls.append(asyncio.create_task(batcher.tag([["i"]], "interactive")))
            calls.append(asyncio.create_task(batcher.tag([["b"]], "short", bulk=True)))

    engine.after = keep_busy
    async with running(batcher):
        engine.gate.clear()
        calls += [asyncio.create_task(batcher.tag([["i"]], "interactive")) for _ in range(3)]
        await settle()
        long = asyncio.create_task(batcher.tag([["long"] * 4], "long", bulk=True))
        calls += [asyncio.create_task(batcher.tag([["b"]], "short", bulk=True)) for _ in range(3)]
        await settle()
        engine.gate.set()
        await long
        await asyncio.gather(*calls)
    assert engine.batches.index([["long"] * 4]) <= 2 * BULK_EVERY
    assert all(["b"] in batch for batch in engine.batches[1:BULK_EVERY])


async def test_a_batch_that_works_in_halves_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """A batch that fails only as a whole is answered, and leaves one warning without its text."""

    async def run(sentences: Sentences, asks: Sequence[Ask]) -> tuple[list[Answer], str]:
        if len(sentences) > 1:
            raise MemoryError(f"no memory for {sentences}")
        return answers_to(sentences, asks), "en/000001"

    batcher: Batcher[str] = Batcher(run, Budget(100, 10), 100)
    async with running(batcher):
        answer = await batcher.tag([["private"], ["words"]], "s")
    assert tags(answer) == [[7], [5]]
    (record,) = [each for each in caplog.records if each.name == "nerserver.batcher"]
    assert record.levelname == "WARNING"
    assert "2 sentences failed with MemoryError" in record.message
    assert "private" not in caplog.text


async def test_earliest_deadline_first() -> None:
    """Of callers that wait, the one whose deadline is nearest goes first."""
    engine = FakeEngine()
    batcher = batcher_of(engine, tokens=1)
    async with running(batcher):
        engine.gate.clear()
        calls = [asyncio.create_task(batcher.tag([["first"]], "first"))]
        await settle()
        for word, deadline in (("never", math.inf), ("late", 0.4), ("soon", 0.2)):
            calls.append(asyncio.create_task(batcher.tag([[word]], word, deadline=deadline)))
        # One turn is one token here, so these four stand in the same.
        await settle()
        engine.gate.set()
        await asyncio.gather(*calls)
    assert [batch[0][0] for batch in engine.batches] == ["first", "soon", "late", "never"]


async def test_timing() -> None:
    """The answer says how long its slowest sentence waited, how long its batches took and how large they were."""
    engine, clock = FakeEngine(), Clock()

    def take_time() -> None:
        clock.now += 2.0

    engine.after = take_time
    batcher = batcher_of(engine, tokens=4, sentences=2, clock=clock)
    async with running(batcher):
        answer = await batcher.tag([["a"], ["b"], ["c"]], "s")
    assert (answer.queue_s, answer.compute_s, answer.batch_size) == (2.0, 4.0, 2)
