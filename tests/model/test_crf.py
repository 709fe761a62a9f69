"""Viterbi against every path, and against torchcrf."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchcrf import CRF

from nermodel.crf import legal, viterbi
from nermodel.tags import SCHEMES, Scheme, tag_table


def best_path(emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> tuple[int, ...]:
    """The path over emissions [T, C] that enumeration finds best."""
    first, steps, last, rows = start.tolist(), transitions.tolist(), end.tolist(), emissions.tolist()

    def score(path: tuple[int, ...]) -> float:
        total = sum(row[tag] for row, tag in zip(rows, path, strict=True))
        total += sum(steps[before][after] for before, after in pairwise(path))
        return float(first[path[0]] + total + last[path[-1]])

    return max(product(range(len(first)), repeat=len(rows)), key=score)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from(SCHEMES))
def test_the_best_of_all_legal_paths_is_found(seed: int, lengths: list[int], scheme: Scheme) -> None:
    """In a ragged batch every sentence gets the path that enumeration finds best, and it is legal."""
    torch.manual_seed(seed)
    masks = legal(tag_table("X" if scheme == "BIOES" else "XY", scheme))
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
