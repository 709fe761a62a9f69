"""The network as a whole: loss, legality, and sentences that do not see their batch mates."""

import random
from itertools import pairwise, product

import pytest
import torch
from tests.conftest import WORDS, MakeModel

from nermodel.checkpoint import Model
from nermodel.network import Batch, Network, NetworkConfig
from nermodel.tags import SCHEMES, Scheme, spans_to_tags, tag_table, tags_to_spans
from nermodel.vocabulary import CASINGS

CPU = torch.device("cpu")


def random_sentences(seed: int, count: int, longest: int) -> list[list[str]]:
    rng = random.Random(seed)
    words = [*WORDS, "Unseen", "x" * 50, "é", "42", ""]
    return [[rng.choice(words) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("layers", [1, 2])
def test_tags_do_not_depend_on_batch_mates(make_model: MakeModel, layers: int) -> None:
    """Sentences get the same tags alone, in random batches, and in any order."""
    model = make_model(layers=layers)
    sentences = random_sentences(1, 120, 30)
    alone = [model.tag([sentence])[0] for sentence in sentences]
    rng = random.Random(2)
    order = list(range(len(sentences)))
    rng.shuffle(order)
    while order:
        batch, order = order[: (size := rng.randint(1, 40))], order[size:]
        assert model.tag([sentences[index] for index in batch]) == [alone[index] for index in batch]


def test_emissions_do_not_depend_on_batch_mates(make_model: MakeModel) -> None:
    """Scores alone and in a batch with longer sentences and longer words agree to rounding."""
    model = make_model()
    short, long = ["Mary", "left"], ["Berlin", *["x" * 30] * 20]
    together = model.network(Batch.of([short, long], model.vocabulary, CPU))[0, :2]
    alone = model.network(Batch.of([short], model.vocabulary, CPU))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_illegal_paths_never_come_out(make_model: MakeModel, scheme: Scheme) -> None:
    """However strongly the network asks for an illegal tag, the answer is a sequence that spans can write."""
    model = make_model(scheme=scheme)
    with torch.no_grad():
        model.network.output.weight.mul_(1e6)
        model.network.crf.transitions.zero_()
    sentences = random_sentences(3, 100, 12)
    found = [[model.tags[tag] for tag in tags] for tags in model.tag(sentences)]
    assert any(tag != "O" for tags in found for tag in tags)
    for tags in found:
        assert spans_to_tags(tags_to_spans(tags), len(tags), scheme) == tags


def test_empty_sentences_have_no_tags_and_hurt_no_neighbour(make_model: MakeModel) -> None:
    """An empty sentence in a batch gets an empty answer."""
    model = make_model()
    assert model.tag([]) == []
    assert model.tag([[], []]) == [[], []]
    assert model.tag([[], ["Mary"], []]) == [[], model.tag([["Mary"]])[0], []]


def test_the_loss_is_the_negative_log_likelihood_and_ignores_padding(make_model: MakeModel) -> None:
    """The loss of a ragged batch is the mean over sentences of minus log P(gold), found by enumeration."""
    model = make_model()
    network = model.network
    sentences, gold = [["Mary"], ["in", "Oslo"]], [[model.tags.index("B-PER")], [0, model.tags.index("B-LOC")]]
    batch = Batch.of(sentences, model.vocabulary, CPU)
    expected = []
    for row, tags in enumerate(gold):
        emissions = network(batch)[row]

        def score(path: tuple[int, ...], emissions: torch.Tensor = emissions) -> torch.Tensor:
            ends = [network.crf.start_transitions[path[0]], network.crf.end_transitions[path[-1]]]
            steps = [network.crf.transitions[before, after] for before, after in pairwise(path)]
            return torch.stack([*ends, *steps, *(emissions[at, tag] for at, tag in enumerate(path))]).sum()

        every = torch.stack([score(path) for path in product(range(len(model.tags)), repeat=len(tags))])
        expected.append(torch.logsumexp(every, 0) - score(tuple(tags)))
    padded = torch.tensor([[*gold[0], 3], gold[1]])  # any tag in the padding
    torch.testing.assert_close(network.loss(network(batch), batch, padded), torch.stack(expected))


def test_the_loss_over_allowed_tags_sums_their_paths(make_model: MakeModel) -> None:
    """Minus the log of the probability of all paths through the allowed tags, found by enumeration."""
    model = make_model()
    network = model.network
    batch = Batch.of([["in", "Oslo"]], model.vocabulary, CPU)
    allowed = torch.zeros(1, 2, len(model.tags), dtype=torch.bool)
    allowed[0, 0, [0, 3]] = allowed[0, 1, [1, 2]] = True
    scores = network(batch)
    gold = torch.tensor([list(path) for path in product((0, 3), (1, 2))])
    every = Batch.of([["in", "Oslo"]] * 4, model.vocabulary, CPU)
    each = network.loss(scores.expand(4, -1, -1), every, gold)  # -log P of each path
    torch.testing.assert_close(network.loss(scores, batch, gold[:1], allowed), -torch.logsumexp(-each, 0, keepdim=True))


@pytest.mark.parametrize("layers", [1, 2])
def test_training_reads_each_sentence_to_its_own_end(make_model: MakeModel, layers: int) -> None:
    """In training the LSTM's directions run over padding, and give what the packed LSTM gives without it."""
    network = make_model(layers=layers).network.requires_grad_(True)
    batch = Batch.of(random_sentences(4, 30, 12), make_model().vocabulary, CPU)
    packed = network(batch)
    padded = network.train()(batch)
    torch.testing.assert_close(padded[batch.mask], packed[batch.mask], atol=1e-5, rtol=1e-5)


def test_a_network_can_do_without_characters(make_model: MakeModel) -> None:
    """With no char filters a word is its embedding and its casing."""
    table, vocabulary = tag_table(("LOC",), "BIOES"), make_model().vocabulary
    network = Network(NetworkConfig(word_dim=8, char_filters=0, hidden=10), vocabulary, table).eval()
    batch = Batch.of([["Mary", "Xaver", "Yvonne"]], vocabulary, CPU)
    features = network.word_features(batch)
    assert features.shape == (3, 8 + CASINGS)
    assert torch.equal(features[1], features[2])


def test_a_table_has_every_tag_once() -> None:
    """O comes first, and each label has the scheme's prefixes."""
    assert tag_table(("PER", "LOC"), "BIO") == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert len(set(tag_table("WXYZ", "BIOES"))) == 17


def test_variational_dropout_drops_the_same_features_of_every_token(make_model: MakeModel) -> None:
    """In training one mask covers a whole sentence and what it keeps is scaled up."""
    model: Model = make_model()
    model.network.dropout = 0.5
    model.network.train()
    dropped = model.network._drop(torch.ones(4, 7, 50))
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
