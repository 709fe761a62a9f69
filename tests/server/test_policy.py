"""The policy over plain items: no loss, nothing twice, the budget kept, everyone served in the end."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nerserver.policy import Budget, Item, Line, Shares, compose

budgets = st.builds(Budget, st.integers(1, 200), st.integers(1, 10), st.booleans())
items = st.builds(
    Item, st.integers(1, 60), st.integers(1, 2000), st.just(0), st.just(0.0), st.sampled_from([1.0, 3.0, math.inf])
)
NOW = 2.0


def item(tokens: int, turn: int = 0, due: float = 0.0) -> Item:
    return Item(tokens, tokens, turn, due, math.inf)


@given(st.lists(items), st.lists(items), budgets)
def test_batch(lead: list[Item], fill: list[Item], budget: Budget) -> None:
    """A batch keeps the budget, holds the first in line, holds nobody twice, and expired items are set apart."""
    batch, expired = compose(lead, fill, budget, NOW)
    live = [each for each in lead if each.deadline > NOW] or [each for each in fill if each.deadline > NOW]
    assert set(expired) == {each for each in (*lead, *fill) if each.deadline <= NOW}
    assert len(set(batch)) == len(batch)
    assert set(batch) <= {*lead, *fill} - set(expired)
    assert not live or live[0] in batch
    assert bool(batch) == bool(live)
    if len(batch) > 1:
        assert len(batch) <= budget.sentences
        lengths = [each.tokens for each in batch]
        assert (max(lengths) * len(lengths) if budget.padded else sum(lengths)) <= budget.tokens


@given(st.lists(items), st.lists(items), budgets)
def test_fill_never_widens(lead: list[Item], fill: list[Item], budget: Budget) -> None:
    """The second line takes only what room the first leaves: the first's part is the same without it."""
    alone, _ = compose(lead, [], budget, NOW)
    batch, _ = compose(lead, fill, budget, NOW)
    if alone:
        assert batch[: len(alone)] == alone
        assert max(each.tokens for each in batch) == max(each.tokens for each in alone)


@given(st.lists(items), st.lists(items), budgets)
def test_all_are_served(lead: list[Item], fill: list[Item], budget: Budget) -> None:
    """Batch after batch, everyone who has not expired is served exactly once."""
    live = [each for each in (*lead, *fill) if each.deadline > NOW]
    served: list[Item] = []
    for _ in range(len(live) + 1):
        batch, _ = compose(lead, fill, budget, NOW)
        served += batch
        lead, fill = [each for each in lead if each not in batch], [each for each in fill if each not in batch]
    assert sorted(map(id, served)) == sorted(map(id, live))


def test_all_that_fits_goes() -> None:
    """When everyone fits, everyone goes, however different their lengths."""
    line = [item(1), item(100), item(3)]
    assert compose(line, [], Budget(300, 3), 0.0)[0] == line


def test_similar_lengths_go_together() -> None:
    """In a deep queue the first in line goes with those of its length, not with those next in line."""
    line = [item(10) if position % 2 == 0 else item(100) for position in range(40)]
    batch, _ = compose(line, [], Budget(400, 8), 0.0)
    assert {each.tokens for each in batch} == {10}
    assert batch == line[:16:2]


@given(st.lists(items), budgets)
def test_without_padding_the_first_go(lead: list[Item], budget: Budget) -> None:
    """Where nothing is gained by similar lengths, nobody is passed over."""
    batch, _ = compose(lead, [], replace(budget, padded=False), NOW)
    live = [each for each in lead if each.deadline > NOW]
    assert batch == live[: len(batch)]
    if len(batch) < len(live):
        tokens = sum(each.tokens for each in live[: len(batch) + 1])
        assert len(batch) == budget.sentences or tokens > budget.tokens


def test_longer_than_the_budget_goes_alone() -> None:
    """A sentence beyond the budget is a batch of its own rather than never served."""
    long = item(500)
    assert compose([long, item(1)], [], Budget(100, 8), 0.0)[0] == [long]


def test_line_orders_by_turn_then_due_then_arrival() -> None:
    """Turns come first, then when one is due, then arrivals."""
    late, soon, first, second = item(1, 1, 0.0), item(1, 0, 1.0), item(1, 0, 2.0), item(1, 0, 2.0)
    line: Line[Item] = Line()
    for each in (late, first, second, soon):
        line.add(each)
    assert line.head(10) == [soon, first, second, late]


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 10))
def test_line_forgets_who_left(waiting: list[bool], count: int) -> None:
    """Whoever no longer waits is never seen again and does not pile up."""
    line: Line[Item] = Line()
    all_items = [item(1) for _ in waiting]
    for each in all_items:
        line.add(each)
    for each, stays in zip(all_items, waiting, strict=True):
        each.waiting = stays
    left = waiting.count(False)
    line.left(left)
    assert line.head(count) == [each for each in all_items if each.waiting][:count]
    assert len(line._entries) <= max(2 * waiting.count(True), waiting.count(True) + left)


def served_tokens(demands: dict[str, int], size: int, batches: int) -> dict[str, int]:
    """Tokens each source got in so many batches of `size` one-token items, when all ask at once."""
    shares, line = Shares(quantum=size), Line[Item]()
    owner = {}
    for source, tokens in demands.items():
        for _ in range(tokens):
            each = item(1, shares.turn(source, 1))
            owner[each] = source
            line.add(each)
    got = dict.fromkeys(demands, 0)
    for _ in range(batches):
        for each in compose(line.head(4 * size), [], Budget(size, size), 0.0)[0]:
            each.waiting = False
            got[owner[each]] += 1
        heads = line.head(1)
        shares.advance(size, heads[0].turn if heads else None)
    return got


def test_sources_share_equally() -> None:
    """A stream that asks for a hundred times more gets no more while others wait."""
    got = served_tokens({"flood": 10_000, "other": 100, "third": 100}, size=10, batches=30)
    assert got == {"flood": 100, "other": 100, "third": 100}


def test_alone_a_source_gets_everything() -> None:
    """Nobody is held back when nobody else waits."""
    assert served_tokens({"flood": 1000}, size=10, batches=100) == {"flood": 1000}


def test_newcomers_do_not_starve_anyone() -> None:
    """One that is due in a while is served although ever new sources come, more than can be served, due sooner."""
    shares, line = Shares(quantum=64), Line[Item]()
    victim = item(50, shares.turn("victim", 50), due=10.0)
    line.add(victim)
    for now in range(40):
        for caller in range(20):
            line.add(item(8, shares.turn((now, caller), 8), due=now + 1.0))
        batch, _ = compose(line.head(32), [], Budget(64, 8), now)
        for each in batch:
            each.waiting = False
        shares.advance(64, line.head(1)[0].turn)
    assert not victim.waiting


def test_later_turns_come() -> None:
    """What a source asked for beyond its share is served although new sources ask for all there is, for ever."""
    shares, line = Shares(quantum=64), Line[Item]()
    stream = [item(8, shares.turn("stream", 8)) for _ in range(24)]
    for each in stream:
        line.add(each)
    for step in range(200):
        for caller in range(8):
            line.add(item(8, shares.turn((step, caller), 8), due=float(step)))
        for each in compose(line.head(32), [], Budget(64, 8), 0.0)[0]:
            each.waiting = False
        shares.advance(64, line.head(1)[0].turn)
    assert not any(each.waiting for each in stream)


def test_newcomers_start_where_the_first_in_line_stands() -> None:
    """When earlier turns were given up, a newcomer's turn is not before those that still wait."""
    shares = Shares(quantum=10)
    turns = [shares.turn("stream", 10) for _ in range(6)]
    assert turns == [0, 1, 2, 3, 4, 5]
    shares.advance(0, first_turn=5)
    assert shares.turn("newcomer", 1) == 5
