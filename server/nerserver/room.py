"""The room for those who wait: bounded, and never closed to a source that has nothing in it."""

import asyncio
from collections import Counter
from collections.abc import Hashable
from weakref import WeakValueDictionary


class Room:
    """Tokens that wait, by source; once they reach the bound, only sources that have none of them may add."""

    def __init__(self, max_tokens: int) -> None:
        self.tokens = 0
        self._max_tokens = max_tokens
        self._held: Counter[Hashable] = Counter()  # tokens of each source that has any
        self._turnstiles: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._left = asyncio.Event()

    def open_to(self, source: Hashable) -> bool:
        """Whether the source may add work now."""
        return self.tokens < self._max_tokens or source not in self._held

    async def opened(self, source: Hashable) -> None:
        """Wait until the source may add work; of one source, first come, first in."""
        turnstile = self._turnstiles.setdefault(source, asyncio.Lock())
        async with turnstile:
            while not self.open_to(source):
                self._left.clear()
                await self._left.wait()

    def enter(self, source: Hashable, tokens: int) -> None:
        """Count a source's work."""
        self.tokens += tokens
        self._held[source] += tokens

    def leave(self, source: Hashable, tokens: int) -> None:
        """Count it no longer."""
        self.tokens -= tokens
        self._held[source] -= tokens
        if not self._held[source]:
            del self._held[source]
        self._left.set()
