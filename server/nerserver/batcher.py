"""The batcher: whatever waits when the engine becomes free is its next batch. No timer, no thread, no wire types."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nermodel.tagger import Answer, Ask
from nerserver.errors import DeadlineError, Failure, QueueFullError, TooLateError, log_failure
from nerserver.pace import Pace
from nerserver.policy import POOL, QUANTUM, Budget, Item, Line, Shares, compose
from nerserver.room import Room

logger = logging.getLogger(__name__)
# After which a request is due whose deadline is later, so that near deadlines never starve it: the first where it asks
# for PATIENT_TOKENS or more, the second where it asks for next to nothing.
PATIENCE_S, LEAST_PATIENCE_S, PATIENT_TOKENS = 2.0, 0.5, 512
SURE = 0.75  # of the time that a deadline leaves, that work may be expected to take: forecasts err
BULK_EVERY = 8  # bulk work leads a batch after so many that left its first behind
ModelT = TypeVar("ModelT")
Words = Sequence[str]
Run = Callable[[list[Words], list[Ask]], Awaitable[tuple[list[Answer], ModelT]]]


@dataclass(frozen=True)
class Reply(Generic[ModelT]):
    """The answers to one request's sentences, all of one model, and where the time went."""

    answers: list[Answer | Failure]  # one for each sentence
    model: ModelT | None  # None when every sentence failed
    queue_s: float  # of the sentence that waited longest
    compute_s: float  # of all batches that held one of its sentences
    batch_size: int  # sentences in the largest of them


@dataclass(eq=False)
class _Job(Generic[ModelT]):
    """A request: its answers so far, and the future that ends when none is missing."""

    reply: asyncio.Future[Reply[ModelT]]
    sentences: Sequence[Words]
    turns: list[int]  # of each sentence
    ask: Ask
    source: Hashable
    deadline: float
    line: "Line[_Sentence[ModelT]]"
    room: Room  # that the sentences wait in
    answers: list[Answer | Failure]
    models: list[ModelT | None]  # which gave each of the answers
    began: float  # by the clock, when it came
    foretold_s: float  # how long it was to take
    queued: "list[_Sentence[ModelT]]" = field(default_factory=list)  # those that wait, or waited
    missing: int = 0
    last: ModelT | None = None  # of the models
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class _Sentence(Item, Generic[ModelT]):
    words: Words
    job: _Job[ModelT]
    row: int  # in the job
    queued_at: float


class Batcher(Generic[ModelT]):
    """Gathers the sentences of all callers into batches for `run`, one batch at a time."""

    def __init__(
        self,
        run: Run[ModelT],
        budget: Budget,
        max_queue_tokens: int,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[list[int], float], None] = lambda lengths, seconds: None,
    ) -> None:
        """`observe` is told of each batch that was answered: the tokens of its sentences, and what it took."""
        self.budget = budget
        self._run = run
        self._observe = observe
        self._clock = clock
        self._interactive: Line[_Sentence[ModelT]] = Line()
        self._bulk: Line[_Sentence[ModelT]] = Line()
        self._shares = Shares(min(QUANTUM, budget.tokens))
        self._rooms = {False: Room(max_queue_tokens), True: Room(max_queue_tokens)}  # by whether it is bulk
        self._pace = Pace()
        self._runs_until = 0.0  # by the clock: when the batch that runs should end
        self._without_bulk = 0  # batches since the first bulk work that waited went
        self._work = asyncio.Event()

    async def tag(
        self,
        sentences: Sequence[Words],
        source: Hashable,
        deadline: float = math.inf,
        bulk: bool = False,
        wait: bool = False,
        ask: Ask = None,
    ) -> Reply[ModelT]:
        """Answer what is asked of sentences of at least one word each, wholly with one model.

        `source` is who shares equally with the others, `deadline` in the clock's seconds. A full queue takes no
        more of a source that has work in it, but waits for room with `wait`; interactive and bulk work have a queue
        each. A sentence that the engine cannot tag has a Failure in its place.

        Raises QueueFullError, TooLateError where what goes first would outlast the deadline, and DeadlineError if the
        deadline passes before the last of the work has begun.
        """
        self.check(source, deadline, bulk, wait, sum(map(len, sentences)))
        if wait:
            await self._rooms[bulk].opened(source)
        return await self.submit(sentences, source, deadline, bulk, ask)

    def submit(
        self,
        sentences: Sequence[Words],
        source: Hashable,
        deadline: float = math.inf,
        bulk: bool = False,
        ask: Ask = None,
    ) -> asyncio.Future[Reply[ModelT]]:
        """As `tag`, without asking for room: the reply to come, which may be cancelled."""
        foretold_s = self._wait_s(source, deadline, bulk, sum(map(len, sentences)))  # before it takes its turns
        job: _Job[ModelT] = _Job(
            asyncio.get_running_loop().create_future(),
            sentences,
            [self._shares.turn(source, len(words)) for words in sentences],
            ask,
            source,
            deadline,
            self._bulk if bulk else self._interactive,
            self._rooms[bulk],
            [Answer(b"", [])] * len(sentences),
            [None] * len(sentences),
            self._clock(),
            foretold_s,
        )
        job.reply.add_done_callback(lambda _: self._leave(job))
        if sentences:
            self._queue(job, range(len(sentences)))
        else:
            self._end(job)
        return job.reply

    def has_room(self, source: Hashable, bulk: bool) -> bool:
        """Whether a source's work need not wait to be let in."""
        return self._rooms[bulk].open_to(source)

    def check(
        self, source: Hashable, deadline: float = math.inf, bulk: bool = False, wait: bool = False, tokens: int = 0
    ) -> None:
        """Raise what `tag` would raise at once for so many tokens, before work is prepared for it in vain."""
        self.check_deadline(source, deadline, bulk, wait, tokens)
        room = self._rooms[bulk]
        if not wait and not room.open_to(source):
            raise QueueFullError(self._pace.seconds(room.tokens, self.budget.tokens))

    def check_deadline(
        self, source: Hashable, deadline: float, bulk: bool = False, wait: bool = False, tokens: int = 0
    ) -> None:
        """As `check`, without asking for room; bulk work has no less to wait for than other work."""
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise DeadlineError
        if not wait and left_s < math.inf:
            wait_s = self._wait_s(source, deadline, bulk, tokens)
            if wait_s > SURE * left_s:
                raise TooLateError(wait_s, left_s)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for the engine, interactive and bulk."""
        return sum(room.tokens for room in self._rooms.values())

    async def serve(self) -> None:
        """Compose and run batches until cancelled."""
        while True:
            await self._work.wait()
            began = self._clock()
            batch = self._next_batch()
            tokens = sum(item.tokens for item in batch)
            self._runs_until = began + self._pace.seconds(tokens, self.budget.tokens)
            await self._compute(batch)
            self._runs_until = 0.0

    def _wait_s(self, source: Hashable, deadline: float, bulk: bool, tokens: int) -> float:
        """How long work of so many tokens that comes now will take, after the batch that runs and what goes first."""
        now = self._clock()
        line = self._bulk if bulk else self._interactive
        due = _due(now, deadline, tokens or PATIENT_TOKENS)  # as a large one where its size is not known yet
        ahead = self._rooms[bulk].tokens * line.ahead_of(self._shares.next_turn(source), due)
        if bulk:
            ahead += self._rooms[False].tokens
        return max(self._runs_until - now, 0) + self._pace.seconds(ahead + tokens, self.budget.tokens)

    def _queue(self, job: _Job[ModelT], rows: Sequence[int]) -> None:
        """Let these sentences of a job wait."""
        now = self._clock()
        request_tokens = sum(len(job.sentences[row]) for row in rows)
        due = _due(now, job.deadline, request_tokens)
        job.missing = len(rows)
        job.queued = [
            _Sentence(
                tokens=len(job.sentences[row]),
                request_tokens=request_tokens,
                turn=job.turns[row],
                due=due,
                deadline=job.deadline,
                words=job.sentences[row],
                job=job,
                row=row,
                queued_at=now,
            )
            for row in rows
        ]
        for item in job.queued:
            job.line.add(item)
            job.room.enter(job.source, item.tokens)
        self._work.set()

    def _leave(self, job: _Job[ModelT]) -> None:
        """Let nothing of a job that has ended wait."""
        now = self._clock()
        if job.sentences and (not job.missing or now >= job.deadline):
            self._pace.correct(job.foretold_s, now - job.began)
        if job.missing:
            left = [item for item in job.queued if item.waiting]
            self._take(left)
            job.line.left(len(left))
        job.queued = []  # else each would hold the job in a circle, and with it the weights of a model that is gone

    def _take(self, items: Sequence[_Sentence[ModelT]]) -> None:
        for item in items:
            item.waiting = False
            item.job.room.leave(item.job.source, item.tokens)

    def _next_batch(self) -> list[_Sentence[ModelT]]:
        now = self._clock()
        pool = (POOL if self.budget.padded else 1) * self.budget.sentences
        interactive, bulk = self._interactive.head(pool), self._bulk.head(pool)
        lead, fill = (bulk, interactive) if self._without_bulk >= BULK_EVERY else (interactive, bulk)
        batch, expired = compose(lead, fill, self.budget, now)
        self._take(expired)
        first_bulk = next((item for item in bulk if item.waiting), None)
        self._take(batch)
        self._without_bulk = self._without_bulk + 1 if first_bulk and first_bulk.waiting else 0
        for item in batch:
            item.job.queue_s = max(item.job.queue_s, now - item.queued_at)
        for item in expired:
            if not item.job.reply.done():
                item.job.reply.set_exception(DeadlineError())
        heads = [item.turn for line in (self._interactive, self._bulk) for item in line.head(1)]
        self._shares.advance(sum(item.tokens for item in batch), min(heads, default=None))
        if not heads:
            self._work.clear()
        return batch

    async def _compute(self, batch: Sequence[_Sentence[ModelT]]) -> None:
        """Run a batch and answer; one that fails is halved until what fails is alone."""
        batch = [item for item in batch if not item.job.reply.done()]  # callers leave also while the first half runs
        if not batch:
            return
        started = self._clock()
        failure = None
        try:
            outputs, model = await self._run([item.words for item in batch], [item.job.ask for item in batch])
            if [len(answer.tags) for answer in outputs] != [item.tokens for item in batch]:
                raise RuntimeError(f"{len(outputs)} answers that do not fit their {len(batch)} sentences")
        except Exception as error:  # whatever it is, it may be one sentence's alone
            outputs = []
            if len(batch) == 1:
                failure = log_failure(error)
            else:  # by its type alone: its message may hold a user's text
                logger.warning("a batch of %s sentences failed with %s; halving it", len(batch), type(error).__name__)
        took = self._clock() - started
        for job in {item.job for item in batch}:
            job.compute_s += took
            job.batch_size = max(job.batch_size, len(batch))
        if failure is not None:
            self._answer(batch[0], failure, None)
        elif outputs:
            lengths = [item.tokens for item in batch]
            self._observe(lengths, took)
            self._pace.learn(sum(lengths), took)
            for item, answer in zip(batch, outputs, strict=True):
                self._answer(item, answer, model)
        else:
            half = len(batch) // 2
            await self._compute(batch[:half])
            await self._compute(batch[half:])

    def _answer(self, item: _Sentence[ModelT], answer: Answer | Failure, model: ModelT | None) -> None:
        job = item.job
        job.answers[item.row], job.models[item.row] = answer, model
        job.last = job.last if model is None else model
        job.missing -= 1
        if not job.missing and not job.reply.done():
            self._end(job)

    def _end(self, job: _Job[ModelT]) -> None:
        """Give the reply of a job of which no answer is missing."""
        # A swap between two batches leaves answers of two models: those of the older ones are done again.
        older = [row for row, each in enumerate(job.models) if each is not None and each is not job.last]
        if older:
            self._queue(job, older)
        else:
            job.reply.set_result(Reply(job.answers, job.last, job.queue_s, job.compute_s, job.batch_size))


def _due(now: float, deadline: float, tokens: int) -> float:
    """When a request that comes now is due."""
    asked = min(tokens / PATIENT_TOKENS, 1)
    return min(deadline, now + LEAST_PATIENCE_S + asked * (PATIENCE_S - LEAST_PATIENCE_S))
