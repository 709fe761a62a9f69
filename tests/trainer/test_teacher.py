"""What a student learns of its teachers."""

from itertools import product

import pytest
import torch
from tests.conftest import MakeModel

from nermodel.network import Batch
from nermodel.tags import SCHEMES, Scheme
from nertrainer.teacher import distillation_loss, opinions

CPU = torch.device("cpu")
SENTENCES = [["Mary", "left", "Oslo"], ["Siemens"], ["the", "Inc."]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_loss_is_the_cross_entropy_over_all_paths(make_model: MakeModel, scheme: Scheme) -> None:
    """The mean over teachers of -sum P_teacher(path) log P_student(path), every legal path enumerated."""
    teachers, student = [make_model(seed, scheme) for seed in (1, 2)], make_model(3, scheme)
    batch = Batch.of(SENTENCES, student.vocabulary, CPU)
    network = student.network
    scores = network(batch)
    expected = torch.zeros(())
    for row, sentence in enumerate(SENTENCES):
        paths = torch.tensor(list(product(range(len(student.tags)), repeat=len(sentence))))  # [N, T]
        repeated = Batch.of([sentence] * len(paths), student.vocabulary, CPU)
        student_losses = network.loss(scores[row, : len(sentence)].expand(len(paths), -1, -1), repeated, paths)
        for teacher in teachers:
            probability = (-teacher.network.loss(teacher.network(repeated), repeated, paths)).exp()
            expected = expected + (probability * student_losses).sum() / len(teachers)
    found = distillation_loss(network, scores, batch, opinions(teachers, SENTENCES))
    torch.testing.assert_close(found, expected / len(SENTENCES), atol=1e-4, rtol=1e-4)


def test_an_opinion_is_a_distribution(make_model: MakeModel) -> None:
    """Tag probabilities of each token sum to one, expected transitions to their number; order is the sentences'."""
    found = opinions([make_model(seed) for seed in (1, 2, 3)], SENTENCES)
    for opinion, sentence in zip(found, SENTENCES, strict=True):
        torch.testing.assert_close(opinion.tags.sum(dim=1), torch.ones(len(sentence)))
        assert opinion.transitions.sum().item() == pytest.approx(len(sentence) - 1, abs=1e-4)
