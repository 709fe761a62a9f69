"""Viterbi and the probabilities against every path, and against torchcrf."""

import math
from collections.abc import Iterator
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchcrf import CRF

from nermodel.crf import (
    Candidates,
    Potentials,
    candidates,
    forward_backward,
    legal,
    log_partition,
    n_best,
    path_spans,
    span_probabilities,
    viterbi,
)
from nermodel.tags import SCHEMES, Scheme, Span, labels_of, spans_to_tags, tag_table, tags_to_spans

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def paths(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every path over emissions [T, C] with its score."""
    first, steps, last, rows = start.tolist(), transitions.tolist(), end.tolist(), emissions.tolist()
    for path in product(range(len(first)), repeat=len(rows)):
        total = sum(row[tag] for row, tag in zip(rows, path, strict=True))
        total += sum(steps[before][after] for before, after in pairwise(path))
        yield path, float(first[path[0]] + total + last[path[-1]])


def best_path(emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> tuple[int, ...]:
    """The path over emissions [T, C] that enumeration finds best."""
    return max(paths(emissions, start, transitions, end), key=lambda scored: scored[1])[0]


def probabilities(potentials: Potentials, row: int) -> list[tuple[tuple[int, ...], float]]:
    """Every path of one sentence of the batch with its probability."""
    emissions, lengths, *steps = potentials
    scored = list(paths(emissions[row, : lengths[row]].double(), *steps))
    log_z = math.log(sum(math.exp(score) for _, score in scored))
    return [(path, math.exp(score - log_z)) for path, score in scored]


def span_shares(potentials: Potentials, row: int, table: tuple[str, ...]) -> dict[Span, float]:
    """The summed probability of the paths that hold each span of one sentence."""
    shares: dict[Span, float] = {}
    for path, probability in probabilities(potentials, row):
        if probability:
            for span in tags_to_spans(table[tag] for tag in path):
                shares[span] = shares.get(span, 0.0) + probability
    return shares


def random_potentials(seed: int, lengths: list[int], table: tuple[str, ...]) -> Potentials:
    """Of a ragged batch in float32, with what is illegal at -inf."""
    torch.manual_seed(seed)
    steps = (torch.randn(mask.shape).masked_fill(~mask, -torch.inf) for mask in legal(table))
    return Potentials(3 * torch.randn(len(lengths), max(lengths), len(table)), torch.tensor(lengths), *steps)


def in_float64(potentials: Potentials) -> Potentials:
    """The same scores with more digits."""
    return Potentials(*(value.double() if value.is_floating_point() else value for value in potentials))


def table_of(scheme: Scheme) -> tuple[str, ...]:
    """A table small enough to enumerate."""
    return tag_table("X" if scheme == "BIOES" else "XY", scheme)


@given(st.integers(0, 10_000), LENGTHS, st.sampled_from(SCHEMES))
def test_the_best_of_all_legal_paths_is_found(seed: int, lengths: list[int], scheme: Scheme) -> None:
    """In a ragged batch every sentence gets the path that enumeration finds best, and it is legal."""
    torch.manual_seed(seed)
    masks = legal(table_of(scheme))
    tags = len(masks[0])
    start, transitions, end = (
        torch.randn(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf) for mask in masks
    )
    emissions = 3 * torch.randn(len(lengths), max(lengths), tags, dtype=torch.float64)
    found = viterbi(emissions, torch.tensor(lengths), start, transitions, end)
    for row, length in enumerate(lengths):
        expected = best_path(emissions[row, :length], start, transitions, end)
        assert tuple(found[row, :length].tolist()) == expected


@pytest.mark.parametrize("seed", range(5))
def test_without_constraints_it_is_torchcrf(seed: int) -> None:
    """Over large ragged batches the paths are those of torchcrf.CRF.decode with a mask."""
    torch.manual_seed(seed)
    crf = CRF(9, batch_first=True)
    torch.nn.init.normal_(crf.transitions)
    lengths = torch.randint(1, 60, (40,))
    emissions = torch.randn(40, int(lengths.max()), 9)
    mask = torch.arange(emissions.shape[1]) < lengths.unsqueeze(1)
    found = viterbi(emissions, lengths, crf.start_transitions, crf.transitions, crf.end_transitions)
    expected = crf.decode(emissions, mask)
    assert [row[:length] for row, length in zip(found.tolist(), lengths.tolist(), strict=True)] == expected


@given(st.integers(0, 10_000), LENGTHS, st.sampled_from(SCHEMES))
def test_sums_are_those_over_all_legal_paths(seed: int, lengths: list[int], scheme: Scheme) -> None:
    """In a ragged batch log Z and the probability of each tag are those that enumeration gives."""
    table = table_of(scheme)
    potentials = random_potentials(seed, lengths, table)
    sums = forward_backward(potentials)
    assert torch.equal(sums.log_z, log_partition(potentials))
    for row, length in enumerate(lengths):
        emissions, _, *steps = potentials
        scored = [score for _, score in paths(emissions[row, :length].double(), *steps)]
        assert sums.log_z[row].item() == pytest.approx(math.log(sum(map(math.exp, scored))), abs=1e-5)
        expected = torch.zeros(length, len(table), dtype=torch.float64)
        for path, probability in probabilities(potentials, row):
            expected[range(length), path] += probability
        assert torch.allclose(sums.marginals[row, :length].double(), expected, rtol=0, atol=1e-5)


@given(st.integers(0, 10_000), LENGTHS, st.sampled_from(SCHEMES))
def test_a_span_has_the_share_of_the_paths_that_hold_it(seed: int, lengths: list[int], scheme: Scheme) -> None:
    """Every span of a sentence, also one off the best path, gets the summed probability of the paths that mean it.

    The other sentences of the ragged batch change nothing.
    """
    table = table_of(scheme)
    potentials = random_potentials(seed, lengths, table)
    for row, length in enumerate(lengths):
        expected = span_shares(potentials, row, table)
        assert len(expected) == length * (length + 1) // 2 * len(labels_of(table))
        for span, probability in expected.items():
            tags = [table.index(tag) for tag in spans_to_tags([span], length, scheme)]
            all_tags = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
            all_tags[row, :length] = torch.tensor(tags)
            where = (torch.tensor([row]), torch.tensor([span.start]), torch.tensor([span.end]))
            assert span_probabilities(potentials, all_tags, *where).item() == pytest.approx(probability, abs=1e-5)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from(SCHEMES))
def test_spans_of_paths_are_those_of_their_tags(seed: int, lengths: list[int], scheme: Scheme) -> None:
    """Read as tensors, the spans of a ragged batch are those that reading tag by tag gives, in the same order."""
    table = tag_table("XY", scheme)
    potentials = random_potentials(seed, lengths, table)
    path = viterbi(*potentials)
    found = torch.stack(path_spans(path, potentials.lengths, potentials.start), dim=1).tolist()
    expected = [
        [row, span.start, span.end]
        for row, length in enumerate(lengths)
        for span in tags_to_spans(table[tag] for tag in path[row, :length].tolist())
    ]
    assert found == expected


def test_a_long_sentence_keeps_its_digits() -> None:
    """After 5,000 tokens of large scores a span's probability in float32 is still that of float64."""
    table = tag_table("XY", "BIO")
    potentials = random_potentials(1, [5000], table)
    potentials = potentials._replace(emissions=potentials.emissions + 20)
    path = viterbi(*potentials)
    where = path_spans(path, potentials.lengths, potentials.start)
    expected = span_probabilities(in_float64(potentials), path, *where)
    assert len(expected) > 1000
    assert torch.allclose(span_probabilities(potentials, path, *where), expected.float(), rtol=0, atol=1e-5)


@given(
    st.integers(0, 10_000),
    LENGTHS,
    st.sampled_from(SCHEMES),
    st.lists(st.sampled_from([1e-6, 0.003, 0.05, 0.3, 0.7, 1.0, math.inf]), min_size=4, max_size=4),
)
def test_candidates_are_all_spans_that_are_probable_enough(
    seed: int, lengths: list[int], scheme: Scheme, asked: list[float]
) -> None:
    """Each sentence of a ragged batch gets every span of its own least probability or more, in order, once."""
    table = table_of(scheme)
    potentials = random_potentials(seed, lengths, table)
    least = torch.tensor(asked[: len(lengths)])
    found = candidates(potentials, least)
    rows = found.rows.tolist()
    assert rows == sorted(rows)
    for row in range(len(lengths)):
        expected = span_shares(potentials, row, table)
        got = spans_of(found, row, table)
        assert [span for span, _ in got] == sorted({span for span, _ in got})
        for span, score in got:
            assert score >= asked[row]
            assert score == pytest.approx(expected[span], abs=1e-5)
        surely = {span for span, probability in expected.items() if probability > 1.001 * asked[row] + 1e-6}
        assert surely <= {span for span, _ in got}


def spans_of(found: Candidates, row: int, table: tuple[str, ...]) -> list[tuple[Span, float]]:
    """The candidates of one sentence with their scores."""
    mine = Candidates(*(values[found.rows == row] for values in found))
    spans = zip(mine.starts.tolist(), mine.ends.tolist(), mine.tags.tolist(), mine.scores.tolist(), strict=True)
    return [(Span(start, end, table[tag][2:]), score) for start, end, tag, score in spans]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_long_span_is_a_candidate(scheme: Scheme) -> None:
    """An entity over 500 tokens is found, with the score that it has on the best path and in float64."""
    table = table_of(scheme)
    potentials = random_potentials(1, [500], table)
    tags = torch.tensor([table.index(tag) for tag in spans_to_tags([Span(0, 500, "X")], 500, scheme)])
    potentials.emissions[0, torch.arange(500), tags] += 15
    found = candidates(potentials, torch.tensor([0.5]))
    assert [span for span, _ in spans_of(found, 0, table)] == [Span(0, 500, "X")]
    spans = path_spans(tags.unsqueeze(0), potentials.lengths, potentials.start)
    for each in (potentials, in_float64(potentials)):
        assert found.scores.tolist() == pytest.approx(
            span_probabilities(each, tags.unsqueeze(0), *spans).tolist(), abs=1e-4
        )


@given(st.integers(0, 10_000), LENGTHS, st.sampled_from(SCHEMES), st.integers(1, 12))
def test_the_n_best_paths_are_those_of_enumeration(seed: int, lengths: list[int], scheme: Scheme, n: int) -> None:
    """In a ragged batch each sentence gets its n best legal paths in order, with their log-probabilities."""
    potentials = random_potentials(seed, lengths, table_of(scheme))
    found, log_probabilities = n_best(potentials, n)
    assert found.shape == (len(lengths), n, max(lengths))
    for row, length in enumerate(lengths):
        legal_paths = [each for each in probabilities(potentials, row) if each[1]]
        expected = sorted(legal_paths, key=lambda each: -each[1])[:n]
        assert [tuple(path[:length]) for path in found[row, : len(expected)].tolist()] == [path for path, _ in expected]
        assert log_probabilities[row, : len(expected)].tolist() == pytest.approx(
            [math.log(probability) for _, probability in expected], abs=1e-6
        )
        assert (log_probabilities[row, len(expected) :] == -torch.inf).all()


def test_the_best_of_n_is_the_best_path() -> None:
    """Over large ragged batches the first of several is what `viterbi` finds, and no path comes twice."""
    lengths = torch.randint(1, 60, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    potentials = random_potentials(2, lengths, tag_table("XY", "BIOES"))
    found, log_probabilities = n_best(potentials, 5)
    assert torch.equal(found[:, 0], viterbi(*potentials))
    assert torch.equal(log_probabilities, log_probabilities.sort(dim=1, descending=True).values)
    for paths, chances in zip(found.tolist(), log_probabilities.tolist(), strict=True):
        real = {tuple(path) for path, chance in zip(paths, chances, strict=True) if chance > -math.inf}
        assert len(real) == sum(chance > -math.inf for chance in chances) >= 1


def test_equal_paths_have_one_order() -> None:
    """Where all scores are equal, Viterbi and the n best order paths by their tags, seen from the end."""
    table = tag_table("X", "BIO")
    steps = (torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) for mask in legal(table))
    potentials = Potentials(torch.zeros(1, 2, 3), torch.tensor([2]), *steps)
    assert viterbi(*potentials).tolist() == [[0, 0]]
    found, chances = n_best(potentials, 6)
    assert found[0, :5].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [1, 2]]
    assert chances[0].exp().tolist() == pytest.approx([0.2] * 5 + [0.0])


def test_the_best_path_of_a_very_long_sentence_keeps_its_digits() -> None:
    """After 20,000 tokens of large scores Viterbi in float32 finds the path of float64."""
    potentials = random_potentials(1, [20_000], tag_table("X", "BIO"))
    potentials = potentials._replace(emissions=potentials.emissions + 20)
    assert torch.equal(viterbi(*potentials), viterbi(*in_float64(potentials)))
