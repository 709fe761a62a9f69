"""Training: it learns, it repeats itself, it stops at nonsense."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from nermodel.checkpoint import Card, rounded
from nermodel.crf import legal
from nermodel.network import ILLEGAL, Batch, Network, NetworkConfig
from nermodel.tags import Scheme, Span, tag_table
from nermodel.vocabulary import Vocabulary
from nertrainer.corpus import Sentence
from nertrainer.evaluation import evaluate
from nertrainer.loop import EpochEnd, Recipe, Step, Training, new_network
from nertrainer.mentions import Mentions
from nertrainer.vectors import Vectors

CPU = torch.device("cpu")
NAMES, PLACES = ("Mary", "Ivan", "Chidi", "Noor"), ("Oslo", "Lagos", "Lima", "Pune")
SENTENCES = [
    Sentence((name, verb, place, "."), (Span(0, 1, "PER"), Span(2, 3, "LOC")))
    for name in NAMES
    for place in PLACES
    for verb in ("left", "saw")
]
TABLE = tag_table(("LOC", "PER"), "BIOES")
VOCABULARY = Vocabulary.build((sentence.words for sentence in SENTENCES), 1, ["further", "words", "groß", "gross"])
CONFIG = NetworkConfig(word_dim=10, char_dim=5, char_filters=5, hidden=12)
RECIPE = Recipe(epochs=12, batch_sentences=4, lr=0.02, word_lr=0.02, ema=0.9, dropout=0.2)


def training(recipe: Recipe, sentences: Sequence[Sentence] = SENTENCES, mentions: Mentions | None = None) -> Training:
    """A training of a new network."""
    network = new_network(CONFIG, VOCABULARY, TABLE, Vectors(), recipe)
    return Training(network, VOCABULARY, TABLE, sentences, recipe, CPU, mentions=mentions)


def run(recipe: Recipe) -> tuple[list[float], Network]:
    """Every step's loss, and the averaged network after the last epoch."""
    events = list(training(recipe).run())
    last = events[-1]
    assert isinstance(last, EpochEnd)
    return [event.loss for event in events if isinstance(event, Step)], last.network


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        replace(RECIPE, optimizer="sgd", lr=0.1, word_lr=0.1),
        replace(RECIPE, loss="softmax"),
        replace(RECIPE, precision="bfloat16"),
    ],
    ids=["adamw", "sgd", "softmax", "bfloat16"],
)
def test_it_learns_a_pattern(recipe: Recipe) -> None:
    """After a few epochs the pattern of the corpus is known, also as the checkpoint will round it."""
    _, network = run(recipe)
    model = rounded(Card(TABLE, CONFIG, {}, {}), VOCABULARY, network, CPU)
    assert evaluate(model, SENTENCES).overall.f1 == 1.0


def test_the_same_seed_gives_the_same_bits() -> None:
    """Two runs with one seed agree in every loss and weight; another seed differs."""
    short = replace(RECIPE, epochs=2)
    losses, network = run(short)
    again, twin = run(short)
    assert losses == again
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in network.state_dict().items())
    assert run(replace(short, seed=2))[0] != losses


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("word_lr", [0.0, 0.02])
def test_a_restored_training_goes_on_to_the_same_bits(optimizer: Literal["adamw", "sgd"], word_lr: float) -> None:
    """From the state between any two events of a run, another reaches the state and figures of the first."""
    recipe = replace(RECIPE, epochs=2, optimizer=optimizer, word_lr=word_lr, precision="bfloat16")
    whole = training(recipe)
    events = list(whole.run())
    for taken in (0, 3, 8, 9, 10, 17):  # within an epoch of 8 steps, before its end and after
        first = training(recipe)
        list(islice(first.run(), taken))
        second = training(recipe)
        second.restore(first.state())
        assert [event.loss for event in second.run()] == [event.loss for event in events[taken:]]
        assert same(second.state(), whole.state())


def test_names_that_no_sentence_has_are_learned() -> None:
    """Words that only the gazetteer holds change their vectors, and a training that goes on has them too."""
    quiet = [replace(sentence, words=tuple(map(str.lower, sentence.words))) for sentence in SENTENCES]
    mentions = Mentions(quiet, {"PER": [("GROẞ",)]})
    recipe = replace(RECIPE, epochs=2, recase=1.0)  # GROẞ is groß in lower case, and that is GROSS in capitals
    rows = VOCABULARY.word_ids(["groß", "gross"])
    assert rows.tolist() == [len(VOCABULARY.words), len(VOCABULARY.words) + 1]  # the last, behind those of the text
    weights = {}
    for given in (None, mentions):
        whole = training(recipe, quiet, given)
        before = whole.network.word.weight.detach().clone()
        list(whole.run())
        weights[given] = whole.network.word.weight
        changed = (weights[given] != before).any(dim=1)
        assert changed[rows].tolist() == [given is not None] * 2
        assert not changed[VOCABULARY.word_id("further")]
    first = training(recipe, quiet, mentions)
    list(islice(first.run(), 9))
    second = training(recipe, quiet, mentions)
    second.restore(first.state())
    list(second.run())
    assert torch.equal(second.network.word.weight, weights[mentions])


@pytest.mark.parametrize(("share", "lower", "upper"), [(0.0, 0, 0), (0.5, 3 / 8, 1 / 8), (1.0, 3 / 4, 1 / 4)])
def test_a_share_of_the_sentences_is_read_in_another_case(
    share: float, lower: float, upper: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole sentences, three in lower case for one in capitals, others ones in each epoch."""
    read: list[tuple[str, ...]] = []
    whole = Batch.of

    def of(sentences: Sequence[tuple[str, ...]], *rest: Any) -> Batch:
        read.extend(sentences)
        return whole(sentences, *rest)

    monkeypatch.setattr(Batch, "of", of)
    list(training(replace(RECIPE, recase=share, epochs=20)).run())
    written = [sentence.words for sentence in SENTENCES]
    cases: dict[Callable[[str], str], float] = {str: 1 - lower - upper, str.lower: lower, str.upper: upper}
    for case, expected in cases.items():
        found = sum(words in [tuple(case(word) for word in each) for each in written] for words in read)
        assert found / len(read) == pytest.approx(expected, abs=0.08)
        assert (found > 0) is (expected > 0)


def test_a_state_of_another_network_is_refused() -> None:
    """What does not fit is named, rather than half restored."""
    state = training(RECIPE).state()
    state["network.output.weight"] = state["network.output.weight"][1:]
    with pytest.raises(ValueError, match=r"does not fit .* at network.output.weight"):
        training(RECIPE).restore(state)


def test_a_label_that_nobody_annotated_stays_open() -> None:
    """Sentences without places teach nothing of places where they say so, and unlearn them where they do not."""
    without = [replace(sentence, spans=sentence.spans[:1]) for sentence in SENTENCES]
    found = {}
    for unannotated in ((), ("LOC",)):
        mixed = SENTENCES[:4] + [replace(sentence, unannotated=unannotated) for sentence in without] * 3
        ended = [event for event in training(RECIPE, mixed).run() if isinstance(event, EpochEnd)][-1]
        model = rounded(Card(TABLE, CONFIG, {}, {}), VOCABULARY, ended.network, CPU)
        found[unannotated] = evaluate(model, SENTENCES).per_type["LOC"].recall
    assert found[("LOC",)] == 1.0
    assert found[()] < 0.5


def test_illegal_transitions_stay_forbidden() -> None:
    """No amount of training raises the score of an illegal transition."""
    _, network = run(replace(RECIPE, epochs=2))
    start, follow, end = legal(TABLE)
    assert (network.crf.start_transitions[~start] == ILLEGAL).all()
    assert (network.crf.transitions[~follow] == ILLEGAL).all()
    assert (network.crf.end_transitions[~end] == ILLEGAL).all()


@pytest.mark.parametrize(("before", "after"), [("BIO", "BIOES"), ("BIOES", "BIO")])
def test_a_start_in_another_scheme_forbids_what_its_own_scheme_does(before: Scheme, after: Scheme) -> None:
    """What only the start's scheme forbade is allowed again, and what only the new one forbids is forbidden."""
    old = tag_table(("LOC", "PER"), before)
    recipe = replace(RECIPE, scheme=before)
    start = rounded(Card(old, CONFIG, {}, {}), VOCABULARY, new_network(CONFIG, VOCABULARY, old, Vectors(), recipe), CPU)
    new = tag_table(("LOC", "PER"), after)
    network = new_network(CONFIG, VOCABULARY, new, Vectors(), replace(RECIPE, scheme=after), start)
    _, follow, _ = legal(new)
    assert torch.equal(network.crf.transitions == ILLEGAL, ~follow)
    assert (network.crf.transitions[follow].abs() < 1).all()


def test_vectors_fill_the_word_table_and_stay_when_asked() -> None:
    """Words with a vector start from it, and a word rate of zero leaves it so."""
    vectors = Vectors(["oslo"], np.arange(10, dtype=np.float32).reshape(1, 10))
    recipe = replace(RECIPE, epochs=1, word_lr=0.0)
    network = new_network(CONFIG, VOCABULARY, TABLE, vectors, recipe)
    row = VOCABULARY.word_ids(["Oslo"])[0]
    assert network.word.weight[row].tolist() == list(range(10))
    list(Training(network, VOCABULARY, TABLE, SENTENCES, recipe, CPU).run())
    assert network.word.weight[row].tolist() == list(range(10))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    """The weights stay as they were before the step, so that what is saved is whole."""
    begun = training(RECIPE)
    begun.network.output.weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[no-untyped-call]
    before = begun.state()
    with pytest.raises(FloatingPointError, match="gradient became"):
        next(begun.run())
    assert same(begun.state(), before)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    """Training ends with the epoch and step where the loss left the numbers."""
    recipe = replace(RECIPE, optimizer="sgd", lr=1e30, clip=1e30)
    with pytest.raises(FloatingPointError, match="epoch 1, step"):
        run(recipe)
