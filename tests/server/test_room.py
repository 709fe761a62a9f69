"""A room by itself: who gets in when it is full, and in which order."""

import asyncio

from nerserver.room import Room


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_full() -> None:
    """A full room is open only to sources that have nothing in it."""
    room = Room(2)
    room.enter("a", 1)
    assert room.open_to("a")
    room.enter("a", 1)
    assert not room.open_to("a")
    assert room.open_to("b")
    room.leave("a", 2)
    assert room.open_to("a")


async def test_order() -> None:
    """Work of one source gets in as it came, and does not wait for that of others."""
    room = Room(1)
    order: list[str] = []

    async def enter(name: str) -> None:
        await room.opened(name[0])
        room.enter(name[0], 1)
        order.append(name)

    room.enter("a", 1)
    room.enter("b", 1)
    tasks = [asyncio.create_task(enter(name)) for name in ("a1", "a2", "a3", "b1", "b2")]
    for source in "bbaaa":
        await settle()
        room.leave(source, 1)
    await asyncio.gather(*tasks)
    assert order == ["b1", "b2", "a1", "a2", "a3"]
