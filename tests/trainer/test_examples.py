"""The corpus in examples/corpus: its size, its tags, and parts that do not leak into one another."""

from collections import Counter
from itertools import combinations

from tests.trainer.conftest import CORPUS

from nertrainer.corpus import Corpus, Sentence
from nertrainer.mentions import read_gazetteer
from nertrainer.reading import read_corpus

PARTS = {part: read_corpus(CORPUS / f"{part}.conll") for part in ("train", "dev", "test")}
EXTRA = read_corpus(CORPUS / "extra.conll")


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


def test_the_extra_part_is_large_and_clean() -> None:
    """It has thousands of sentences, all four labels, valid BIO, and six domains in equal parts beside two more."""
    assert (EXTRA.scheme, EXTRA.labels, EXTRA.repairs) == ("BIO", ("LOC", "MISC", "ORG", "PER"), [])
    names = ("comments", "encyclopedia", "mail", "news", "tweets", "web")
    assert domains(EXTRA) == {**dict.fromkeys(names, 520), "business": 71, "famous": 600}
    assert sum(domains(EXTRA).values()) == len(EXTRA.sentences)


def test_the_names_are_many_and_no_two_alike() -> None:
    """Thousands, of the three labels that are names and nothing else, none twice under one label."""
    names = read_gazetteer([CORPUS.parent / "gazetteer.tsv"], ["LOC", "ORG", "PER"])
    assert {label: len(found) for label, found in names.items()} == {"LOC": 2507, "ORG": 1604, "PER": 2042}
    assert all(len(set(found)) == len(found) for found in names.values())


def test_no_two_sentences_are_near_duplicates() -> None:
    """No sentence shares more than 60 % of its distinct words with one of another part, nor 75 % within its own.

    Of the extra part that is asked beside dev and test alone, and within it that no two have the same words.
    """
    parts = {part: [_words(sentence) for sentence in corpus.sentences] for part, corpus in PARTS.items()}
    extra = [_words(sentence) for sentence in EXTRA.sentences]
    near = [
        (one, other)
        for some, others, most in (
            *((parts[one], parts[other], 0.6) for one, other in combinations(parts, 2)),
            (extra, parts["dev"] + parts["test"], 0.6),
        )
        for one in some
        for other in others
        if _jaccard(one, other) > most
    ]
    near += [pair for part in parts.values() for pair in combinations(part, 2) if _jaccard(*pair) > 0.75]
    assert near == []
    assert len(set(extra)) == len(extra)


def _words(sentence: Sentence) -> frozenset[str]:
    return frozenset(map(str.lower, sentence.words))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
