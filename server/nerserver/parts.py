"""The inputs of one request as tokenised sentences, and their answers put back together."""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from nermodel.tagger import Answer
from nerserver.errors import Failure, InvalidError
from nerserver.settings import Settings
from nerserver.splitting import INLINE_CHARS, Split, split, split_all
from nerserver.wire import Found

Content = str | list[str]  # raw text, or the tokens of one sentence
LITTLE_TOKENS = 2048  # given; that a response over them is built in less than a few ms


@dataclass(frozen=True)
class Parts:
    """What each input was split into, or the limit that it breaks."""

    inputs: Sequence[Split | InvalidError]
    took_s: float

    def sentences(self) -> list[list[str]]:
        """The sentences of all inputs, in order."""
        return [words for part in self.inputs if isinstance(part, Split) for words in part.sentences]

    def results(self, answers: Iterable[Answer | Failure]) -> list[Found | InvalidError | Failure]:
        """The result of each input, from the answers to all `sentences`."""
        rest = iter(answers)
        return [_result(part, rest) for part in self.inputs]


def is_little(inputs: Iterable[Content]) -> bool:
    """Whether these inputs are split so soon that it need not be done off the event loop."""
    chars = tokens = 0
    for content in inputs:
        if isinstance(content, list):
            tokens += len(content)
        else:
            chars += len(content)
    return chars <= INLINE_CHARS and tokens <= LITTLE_TOKENS


def split_now(inputs: Sequence[Content], limits: Settings) -> Parts:
    """Split inputs that are little."""
    began = time.perf_counter()
    parts, texts = _checked(inputs, limits)
    for row, text in texts.items():
        parts[row] = split(text)
    return Parts(_limited(parts, limits), time.perf_counter() - began)


async def split_aside(inputs: Sequence[Content], limits: Settings, thread: Executor) -> Parts:
    """Split any inputs, long texts in a thread."""
    began = time.perf_counter()
    parts, texts = _checked(inputs, limits)
    for row, part in zip(texts, await split_all(list(texts.values()), thread), strict=True):
        parts[row] = part
    return Parts(_limited(parts, limits), time.perf_counter() - began)


def _checked(inputs: Sequence[Content], limits: Settings) -> tuple[list[Split | InvalidError], dict[int, str]]:
    """Parts, and by row the texts that are to be split yet."""
    parts: list[Split | InvalidError] = []
    texts: dict[int, str] = {}
    for row, content in enumerate(inputs):
        if isinstance(content, list):
            parts.append(Split([content] if content else [], []))
        elif (size := len(content.encode())) > limits.max_text_bytes:
            broken = f"the text has {size} bytes, more than max_text_bytes = {limits.max_text_bytes}"
            parts.append(InvalidError(f"{broken}; send it in parts"))
        else:
            texts[row] = content
            parts.append(Split([], []))
    return parts, texts


def _limited(parts: list[Split | InvalidError], limits: Settings) -> list[Split | InvalidError]:
    """The parts, those with a sentence that is too long refused."""
    for row, part in enumerate(parts):
        longest = max(map(len, part.sentences), default=0) if isinstance(part, Split) else 0
        if longest > limits.max_sentence_tokens:
            parts[row] = InvalidError(
                f"a sentence has {longest} tokens, more than max_sentence_tokens = {limits.max_sentence_tokens}; "
                "send it in parts"
            )
    return parts


def _result(part: Split | InvalidError, rest: Iterator[Answer | Failure]) -> Found | InvalidError | Failure:
    if isinstance(part, InvalidError):
        return part
    good: list[Answer] = []
    failure = None
    for _ in part.sentences:
        answer = next(rest)
        if isinstance(answer, Failure):
            failure = failure or answer
        else:
            good.append(answer)
    return failure or Found(good, part.offsets)
