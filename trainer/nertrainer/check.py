"""What annotated files hold, found before anything is trained on them: sizes, new words, sentences that stand twice."""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from nertrainer.corpus import Corpus

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Coverage:
    """Shares in [0, 1] that have a word vector."""

    tokens: float
    words: float  # distinct, in lower case


@dataclass(frozen=True)
class Overlap:
    """Sentences that stand, word for word, in an earlier place too."""

    count: int
    share: float  # of the sentences of the later place, in [0, 1]
    first: str  # "FILE:LINE" of the first of them in the earlier place
    again: str  # and in the later


@dataclass(frozen=True)
class Figures:
    """The size of a corpus."""

    sentences: int
    tokens: int
    entities: int
    types: dict[str, int]  # entities of each label, in the order of the labels
    lengths: dict[str, int]  # percentiles of the tokens in a sentence, by name, and "max"
    oov: float | None  # share of the tokens, in [0, 1], whose word is not in the training corpus
    covered: Coverage | None  # by vectors


def word_counts(corpora: Iterable[Corpus]) -> Counter[str]:
    """How often each word, in lower case, stands in these corpora."""
    return Counter(word.lower() for corpus in corpora for sentence in corpus.sentences for word in sentence.words)


def figures(corpus: Corpus, known: Container[str] | None = None, vectors: Container[str] | None = None) -> Figures:
    """Measure a corpus, and against words in lower case: those of the training corpus, and those that have vectors."""
    words = word_counts([corpus])
    tokens = words.total()
    types = Counter(span.label for sentence in corpus.sentences for span in sentence.spans)
    lengths = sorted(len(sentence.words) for sentence in corpus.sentences)
    new = None if known is None else sum(count for word, count in words.items() if word not in known)
    return Figures(
        sentences=len(lengths),
        tokens=tokens,
        entities=types.total(),
        types=dict(sorted(types.items())),
        lengths={**{str(p): lengths[(p * len(lengths) - 1) // 100] for p in PERCENTILES}, "max": lengths[-1]},
        oov=None if new is None else new / tokens,
        covered=None if vectors is None else coverage(words, vectors),
    )


def coverage(words: Counter[str], vectors: Container[str]) -> Coverage:
    """How much of a text is covered by vectors; of both the words are in lower case."""
    covered = [count for word, count in words.items() if word in vectors]
    return Coverage(sum(covered) / words.total(), len(covered) / len(words))


def overlap(earlier: Sequence[Corpus], later: Sequence[Corpus]) -> Overlap | None:
    """Sentences of `later`, such as dev files, that stand in `earlier`, such as training files, too."""
    known: dict[tuple[str, ...], str] = {}
    for corpus in earlier:
        for sentence, place in zip(corpus.sentences, corpus.places, strict=True):
            known.setdefault(sentence.words, place)
    again = [
        (known[sentence.words], place)
        for corpus in later
        for sentence, place in zip(corpus.sentences, corpus.places, strict=True)
        if sentence.words in known
    ]
    return _overlap(again, sum(len(corpus.sentences) for corpus in later))


def duplicates(corpus: Corpus) -> Overlap | None:
    """Sentences of a corpus that stand further up in it too."""
    known: dict[tuple[str, ...], str] = {}
    again = []
    for sentence, place in zip(corpus.sentences, corpus.places, strict=True):
        if sentence.words in known:
            again.append((known[sentence.words], place))
        else:
            known[sentence.words] = place
    return _overlap(again, len(corpus.sentences))


def _overlap(again: Sequence[tuple[str, str]], sentences: int) -> Overlap | None:
    return Overlap(len(again), len(again) / sentences, *again[0]) if again else None
