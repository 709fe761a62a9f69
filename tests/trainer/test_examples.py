"""The corpus in examples/corpus: its size, its tags, and splits that do not leak into one another."""

from collections import Counter

from tests.trainer.conftest import CORPUS

from nertrainer.corpus import Corpus
from nertrainer.reading import read_corpus

PARTS = {part: read_corpus(CORPUS / f"{part}.conll") for part in ("train", "dev", "test")}


def domains(corpus: Corpus) -> Counter[str]:
    """Sentences of each domain, as the comments name them."""
    lines = corpus.path.read_text(encoding="utf-8").splitlines()
    return Counter(line.removeprefix("# domain = ") for line in lines if line.startswith("# domain = "))


def test_the_splits_are_large_enough_and_clean() -> None:
    """Each part has its sentences, all four labels, valid BIO, and every domain."""
    assert len(PARTS["train"].sentences) >= 600
    assert min(len(PARTS["dev"].sentences), len(PARTS["test"].sentences)) >= 150
    for corpus in PARTS.values():
        assert (corpus.scheme, corpus.labels, corpus.repairs) == ("BIO", ("LOC", "MISC", "ORG", "PER"), [])
        assert set(domains(corpus)) == {"news", "business", "sport", "science", "support", "chat", "travel", "web"}
        assert sum(domains(corpus).values()) == len(corpus.sentences)


def test_no_two_sentences_are_near_duplicates() -> None:
    """No sentence shares more than 60 % of its distinct words with one of another part, nor 75 % within its own."""
    sentences = [
        (part, {word.lower() for word in sentence.words})
        for part, corpus in PARTS.items()
        for sentence in corpus.sentences
    ]
    for index, (part, words) in enumerate(sentences):
        for other_part, others in sentences[:index]:
            share = len(words & others) / len(words | others)
            assert share <= (0.75 if part == other_part else 0.6), (words, others)
