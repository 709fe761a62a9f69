"""Mention replacement: other names in the place of those in a text, so that a network learns what stands around names
(Dai and Adel 2020, arXiv:2010.11683)."""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nermodel.tags import Span
from nermodel.text import tokenize
from nertrainer.corpus import CorpusError, Sentence, read_text

MOST_WORDS = 30  # of a name in a gazetteer
Name = tuple[str, ...]  # its words


class Mentions:
    """The distinct names of each label of a gazetteer, there and in a text as it writes them.

    Entities of other labels keep theirs.
    """

    def __init__(self, sentences: Iterable[Sentence], gazetteer: Mapping[str, Sequence[Name]]) -> None:
        found: dict[str, dict[Name, None]] = {label: dict.fromkeys(names) for label, names in gazetteer.items()}
        for sentence in sentences:
            for span in sentence.spans:
                if span.label in found and _is_name(sentence, span):
                    found[span.label][sentence.words[span.start : span.end]] = None
        self.by_label: Mapping[str, Sequence[Name]] = {label: list(names) for label, names in found.items()}

    def replaced(self, sentence: Sentence, share: float, rng: random.Random) -> Sentence:
        """The sentence with about this share of its names replaced by any of their label.

        They are put in lower case where the one replaced was, and in capitals where the whole sentence is.
        """
        words: list[str] = []
        spans = []
        end = 0
        for span in sentence.spans:
            words += sentence.words[end : span.start]
            name = sentence.words[span.start : span.end]
            if span.label in self.by_label and _is_name(sentence, span) and rng.random() < share:
                other = rng.choice(self.by_label[span.label])
                if " ".join(sentence.words).isupper():
                    name = tuple(word.upper() for word in other)
                elif " ".join(name).islower():
                    name = tuple(word.lower() for word in other)
                else:
                    name = other
            spans.append(Span(len(words), len(words) + len(name), span.label))
            words += name
            end = span.end
        return Sentence((*words, *sentence.words[end:]), tuple(spans), sentence.unannotated)


def read_gazetteer(paths: Iterable[Path], labels: Sequence[str]) -> dict[str, list[Name]]:
    """Names by label from files with a label, a tab and a name on each line.

    CorpusError says what is wrong and where, OSError why a file cannot be read.
    """
    found: dict[str, list[Name]] = {}
    for path in paths:
        lines = [line for line in enumerate(read_text(path).split("\n"), 1) if line[1].strip()]
        if not lines:
            raise CorpusError(f"{path}: holds no name; give a label, a tab and a name on each line")
        for number, line in lines:
            label, *rest = line.rstrip("\r").split("\t")
            words = tuple(rest[0][start:end] for start, end in tokenize(rest[0])) if len(rest) == 1 else ()
            if not 0 < len(words) <= MOST_WORDS or not _is_name(Sentence(words, ()), Span(0, len(words), label)):
                raise CorpusError(
                    f"{path}:{number}: not a name after one tab; give a label, a tab and a name of letters, of at most "
                    f"{MOST_WORDS} words, on each line"
                )
            if label not in labels:
                raise CorpusError(
                    f"{path}:{number}: label {label[:30]!r} is not one of those trained, {', '.join(labels)}; "
                    "give names of these"
                )
            found.setdefault(label, []).append(words)
    return found


def _is_name(sentence: Sentence, span: Span) -> bool:
    """Whether an entity is a name as any text may have it, and not a handle, a hash tag or a mere sign."""
    before = sentence.words[span.start - 1] if span.start else ""
    words = sentence.words[span.start : span.end]
    marks = ("@", "#")
    return before not in marks and not words[0].startswith(marks) and any(map(str.isalpha, "".join(words)))
