"""Other names in the place of those in a text, so that a network learns what stands around names (mention replacement,
Dai and Adel 2020, arXiv:2010.11683)."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from nermodel.tags import Span
from nermodel.text import tokenize
from nertrainer.corpus import CorpusError, Sentence, read_text

Name = tuple[str, ...]  # its words


class Names:
    """The distinct names of each label, in the text and listed; labels of which none is listed keep theirs."""

    def __init__(self, sentences: Sequence[Sentence], listed: Mapping[str, Sequence[Name]]) -> None:
        found: dict[str, dict[Name, None]] = {label: dict.fromkeys(names) for label, names in listed.items()}
        for sentence in sentences:
            for span in sentence.spans:
                if span.label in found and _is_name(sentence, span):
                    found[span.label][sentence.words[span.start : span.end]] = None
        self.by_label: Mapping[str, Sequence[Name]] = {label: list(names) for label, names in found.items()}

    def swapped(self, sentence: Sentence, share: float, rng: random.Random) -> Sentence:
        """The sentence with about this share of its names replaced by others of their label, written alike."""
        words: list[str] = []
        spans = []
        end = 0
        for span in sentence.spans:
            words += sentence.words[end : span.start]
            name: Sequence[str] = sentence.words[span.start : span.end]
            if span.label in self.by_label and _is_name(sentence, span) and rng.random() < share:
                name = _written_like(name, sentence, rng.choice(self.by_label[span.label]))
            spans.append(Span(len(words), len(words) + len(name), span.label))
            words += name
            end = span.end
        return Sentence((*words, *sentence.words[end:]), tuple(spans), sentence.unannotated)


def read_names(path: Path, labels: Sequence[str]) -> dict[str, list[Name]]:
    """Names of these labels from a file with a label, a tab and a name on each line.

    CorpusError says what is wrong and where, OSError why the file cannot be read.
    """
    found: dict[str, list[Name]] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        label, _, name = line.partition("\t")
        words = tuple(name[start:end] for start, end in tokenize(name))
        if not words:
            raise CorpusError(f"{path}:{number}: no name after a tab; give a label, a tab and a name on each line")
        if label not in labels:
            raise CorpusError(
                f"{path}:{number}: label {label[:30]!r} is in no training file, which have {', '.join(labels)}; "
                "give names of these"
            )
        found.setdefault(label, []).append(words)
    if not found:
        raise CorpusError(f"{path}: holds no name; give a label, a tab and a name on each line")
    return found


def _is_name(sentence: Sentence, span: Span) -> bool:
    """Whether an entity is a name as text has it anywhere, and not a handle, a hash tag or a mere sign."""
    before = sentence.words[span.start - 1] if span.start else ""
    words = sentence.words[span.start : span.end]
    marks = ("@", "#")
    return before not in marks and not words[0].startswith(marks) and any(map(str.isalpha, "".join(words)))


def _written_like(name: Sequence[str], sentence: Sentence, other: Name) -> Sequence[str]:
    """The other name, in capitals where the whole sentence is, in lower case where the name is."""
    if " ".join(sentence.words).isupper():
        return [word.upper() for word in other]
    return [word.lower() for word in other] if " ".join(name).islower() else other
