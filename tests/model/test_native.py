"""The native tagger gives the reference's answers, whatever the batch, the words it has met and the instructions."""

import random

import pytest
import torch
from tests.conftest import WORDS, MakeModel
from tests.model.test_tagger import assert_same, shares

from nermodel import native
from nermodel.checkpoint import Card, Model, rounded
from nermodel.native import NativeError, NativeTagger, Precision
from nermodel.network import Network, NetworkConfig
from nermodel.tagger import Answer, Ask, TorchTagger
from nermodel.tags import SCHEMES, Scheme, Span, tag_table
from nermodel.vocabulary import Vocabulary
from nermodel.windows import WINDOW_TOKENS

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
try:
    LEVELS = native.levels()
except NativeError as error:
    pytest.skip(f"without a C++ compiler there is no native kernel: {error}", allow_module_level=True)


@pytest.fixture(params=LEVELS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each build of the kernel that this processor can run."""
    monkeypatch.setattr(native, "levels", lambda: [request.param])


def random_model(
    seed: int,
    scheme: Scheme = "BIOES",
    labels: int = 4,
    hidden: int = 10,
    layers: int = 1,
    filters: int = 6,
    width: int = 3,
    temperature: float = 1.3,
) -> Model:
    """A model of random weights, sharp enough to find entities."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary.build([WORDS], min_freq=1)
    config = NetworkConfig(word_dim=9, char_dim=4, char_filters=filters, char_width=width, hidden=hidden, layers=layers)
    table = tag_table([f"L{label:02}" for label in range(labels)], scheme)
    network = Network(config, vocabulary, table).eval()
    with torch.no_grad():
        network.output.weight.mul_(20)
    return rounded(Card(table, config, {}, {}, temperature=temperature), vocabulary, network, torch.device("cpu"))


def random_batch(seed: int, sentences: int = 40) -> tuple[list[list[str]], list[Ask]]:
    """Sentences of 0 to 30 words, known, unknown, long, empty and of digits, and what each is asked for."""
    rng = random.Random(seed)
    words = [*WORDS, *map(str.upper, WORDS), "unseen", "1996-08-22", "x" * 100, "", "é", "日本", "🙂", "a\u0301"]
    batch = [rng.choices(words, k=rng.choice((0, 1, 2, 3, 8, 30))) for _ in range(sentences)]
    asks: list[Ask] = [rng.choice((None, 0.0, 0.001, 0.2, 1.0)) for _ in batch]
    return batch, asks


@pytest.mark.parametrize(
    "model",
    [
        random_model(1),
        random_model(2, scheme="BIO"),
        random_model(3, layers=2, hidden=16),
        random_model(4, layers=3, hidden=7, scheme="BIO"),
        random_model(5, filters=0),
        random_model(6, width=5, labels=1),
        random_model(7, labels=20, hidden=33),
        random_model(8, labels=60, width=1, temperature=0.5),
    ],
    ids=["BIOES", "BIO", "two layers", "three layers", "no chars", "width 5", "81 tags", "241 tags"],
)
def test_float32_answers_are_the_reference(model: Model) -> None:
    """Tags and entities are the same, and scores within the last digits, for every shape of network."""
    batch, asks = random_batch(1)
    expected = TorchTagger(model).tag(batch, asks)
    assert sum(len(answer.entities) for answer in expected) > 100
    for answer, reference in zip(NativeTagger(model, 1, "float32").tag(batch, asks), expected, strict=True):
        assert_same(answer, reference)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_are_shares_of_all_paths(make_model: MakeModel, scheme: Scheme) -> None:
    """Every span is found with the probability that the sum over all legal sequences of tags gives it."""
    model = make_model(scheme=scheme)
    words = ["in", "Oslo", "Siemens"]
    (answer,) = NativeTagger(model, 1, "float32").tag([words], [1e-6])
    expected = {span: share for span, share in shares(model, words).items() if share >= 1e-6}
    assert [Span(*entity[:3]) for entity in answer.entities] == sorted(expected)
    for entity in answer.entities:
        assert entity.score == pytest.approx(expected[Span(*entity[:3])], abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_answer_depends_on_its_sentence_alone(precision: Precision, threads: int) -> None:
    """To the bit: alone, in any batch, in any order, by any number of threads."""
    model = random_model(1, layers=2)
    batch, asks = random_batch(2)
    expected = NativeTagger(model, 1, precision).tag(batch, asks)
    tagger = NativeTagger(model, threads, precision)
    for size in (1, 2, 7, len(batch)):
        order = random.Random(size).sample(range(len(batch)), len(batch))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            answers = tagger.tag([batch[row] for row in rows], [asks[row] for row in rows])
            assert answers == [expected[row] for row in rows]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_word_that_was_met_before_reads_as_a_new_one(precision: Precision) -> None:
    """A table that must forget words all the time gives what one with room for all gives."""
    model = random_model(1)
    batch, asks = random_batch(3)
    roomy, crowded = NativeTagger(model, 1, precision), NativeTagger(model, 1, precision, word_types=32)
    expected = roomy.tag(batch, asks)
    assert roomy.tag(batch, asks) == expected
    assert crowded.tag(batch, asks) == expected  # more tokens than the table holds words
    for sentence, ask, answer in zip(batch, asks, expected, strict=True):
        assert crowded.tag([sentence], [ask]) == [answer]


def test_int8_rounds_little() -> None:
    """Probabilities move by a few hundredths at most, and few tags with them."""
    model = random_model(1, hidden=64)
    batch, _ = random_batch(4, 200)
    exact = NativeTagger(model, 1, "float32").tag(batch, [None] * len(batch))
    rough = NativeTagger(model, 1, "int8").tag(batch, [None] * len(batch))
    tags = [(one, other) for a, b in zip(exact, rough, strict=True) for one, other in zip(a.tags, b.tags, strict=True)]
    assert sum(one != other for one, other in tags) < 0.02 * len(tags)
    assert exact != rough


@pytest.mark.parametrize("ask", [None, 0, 0.3])
def test_long_sentences_are_read_in_windows_as_the_reference_reads_them(ask: Ask) -> None:
    """Also among short ones, and with more distinct words than the table holds."""
    model = random_model(1)
    long = [f"{WORDS[row % len(WORDS)]}{row}" for row in range(2 * WINDOW_TOKENS + 300)]
    batch = [["Mary"], long, [], long[: WINDOW_TOKENS + 1]]
    answers = NativeTagger(model, 2, "float32", word_types=2500).tag(batch, [ask] * 4)
    for answer, expected in zip(answers, TorchTagger(model).tag(batch, [ask] * 4), strict=True):
        assert_same(answer, expected, within=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_beyond_what_floats_hold_are_answered(scheme: Scheme) -> None:
    """Where one path outweighs the rest by more than e^1000, probabilities are still those of the reference."""
    model = random_model(3, scheme=scheme)
    with torch.no_grad():
        model.network.output.weight.mul_(64)
    batch, _ = random_batch(5)
    expected = TorchTagger(model).tag(batch, [0.0] * len(batch))
    assert any(answer.entities for answer in expected)
    answers = NativeTagger(model, 1, "float32").tag(batch, [0.0] * len(batch))
    for answer, reference in zip(answers, expected, strict=True):
        assert_same(answer, reference, within=1e-3)  # of emissions in the thousands float32 keeps few digits


def test_nothing_in_nothing_out() -> None:
    """No sentences have no answers, and empty ones have no tags and no entities."""
    tagger = NativeTagger(random_model(1), 1, "int8")
    assert tagger.tag([], []) == []
    assert tagger.tag([[], []], [None, 0.5]) == [Answer(b"", [])] * 2


def test_a_kernel_that_is_not_built_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says how to build it."""
    monkeypatch.setattr(native, "levels", lambda: ["-nowhere"])
    with pytest.raises(
        NativeError, match=r"^the native kernel is not built for this machine .*nermodel\.kernel\.build"
    ):
        NativeTagger(random_model(1), 1, "float32")
