"""What `nertrainer train` reads before it trains, and what it says of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nermodel.checkpoint import load
from nermodel.network import NetworkConfig
from nermodel.tags import check_table, labels_of, tag_table
from nermodel.vocabulary import Vocabulary
from nertrainer.commands.options import (
    read_corpus,
    read_label_map,
    say,
    say_coverage,
    say_overlap,
    say_unused_labels,
)
from nertrainer.corpus import Corpus, Sentence
from nertrainer.fitting import Lesson
from nertrainer.loop import Recipe
from nertrainer.mentions import Mentions, read_gazetteer
from nertrainer.run import sha256
from nertrainer.teacher import Opinion, opinions
from nertrainer.vectors import Vectors, joined, nearest, read_vectors, reduced, vectors_of


@dataclass(frozen=True)
class VectorOptions:
    """Pretrained vectors as the command line asks for them."""

    files: Sequence[Path]
    most: int | None  # words of each file
    size: int | None  # numbers of a vector, of which the principal components are kept
    rows: int | None  # words with a row of their own; each of the rest shares that of the nearest


def read_lesson(
    train_files: Sequence[Path],
    dev_files: Sequence[Path],
    labels: str,
    open_labels: bool,
    vectors: VectorOptions,
    start: Path | None,
    teachers: Sequence[Path],
    gazetteers: Sequence[Path],
    network: NetworkConfig,
    recipe: Recipe,
    device: torch.device,
    digests: Mapping[str, str],
) -> tuple[Lesson, dict[str, str]]:
    """The lesson in these files, and the SHA-256 of each by its absolute path, where `digests` do not have it already.

    CorpusError or ValueError where they do not make one.
    """
    label_map = read_label_map(labels)
    training = [read_corpus(path, label_map) for path in train_files]
    dev = [read_corpus(path, label_map) for path in dev_files]
    table = tag_table({label for corpus in training for label in corpus.labels}, recipe.scheme)
    check_table(table)
    say_unused_labels(label_map, [*training, *dev])
    say_overlap(training, dev)
    names_by_label = read_gazetteer(gazetteers, labels_of(table))
    begun = load(start, device) if start else None
    pretrained = vectors_of(begun) if begun else _vectors(vectors)
    if begun:
        network = begun.card.network
    elif pretrained:
        say_coverage(training, pretrained)
        network = replace(network, word_dim=pretrained.size)
    words = list(pretrained)
    own = words[: begun.vocabulary.word_rows - 2 if begun else vectors.rows]
    shared: dict[str, str] = {}
    if begun:
        shared = {word: own[row - 2] for word, row in zip(words[len(own) :], begun.vocabulary.shared, strict=True)}
    elif vectors.rows:
        say(f"{len(words) - len(own):,} words share the rows of {len(own):,}")
        shared = nearest(pretrained, own, words[len(own) :])
    files = [file for corpus in (*training, *dev) for file in corpus.files] + [
        *vectors.files,
        *teachers,
        *gazetteers,
        *([start] if start else []),
    ]
    names = {str(file.absolute()): file for file in files}
    found = {name: digests.get(name) or sha256(file) for name, file in names.items()}
    sentences = [
        sentence for corpus in training for sentence in (_open(corpus, table) if open_labels else corpus.sentences)
    ]
    texts = [sentence.words for sentence in sentences]
    lesson = Lesson(
        sentences=sentences,
        opinions=_opinions(teachers, texts, table, device),
        mentions=Mentions(sentences, names_by_label) if gazetteers else None,
        vocabulary=Vocabulary.build(texts, recipe.min_freq, own, shared),
        table=table,
        network=network,
        vectors=pretrained,
        start=begun,
        dev=dict(zip(_names(dev), dev, strict=True)),
        provenance={
            "train": [_origin(corpus, found) for corpus in training],
            "dev": [_origin(corpus, found) for corpus in dev],
            "vectors": [_file(path, found) for path in vectors.files],
            "teachers": [_file(path, found) for path in teachers],
            "gazetteers": [_file(path, found) for path in gazetteers],
            "start": f"{begun.version} (SHA-256 {begun.sha256})" if begun else None,
            "labels": label_map,
            "torch": torch.__version__,
        },
        device=device,
    )
    return lesson, found


def _vectors(options: VectorOptions) -> Vectors:
    parts = []
    for file in options.files:
        say(f"{file}: reading vectors")
        parts.append(read_vectors(file, options.most))
    if not parts:
        return Vectors()
    vectors = joined(parts)
    if options.size is None:
        return vectors
    if options.size > vectors.size:
        raise ValueError(
            f"--vector-size {options.size}: the vectors have {vectors.size} numbers; give as many or fewer"
        )
    return reduced(vectors, options.size)


def _open(corpus: Corpus, table: Sequence[str]) -> list[Sentence]:
    """The sentences; where the corpus lacks a label that others annotate, nothing is taught against it."""
    missing = tuple(label for label in labels_of(table) if label not in corpus.labels)
    if missing:
        say(f"{corpus.path}: does not annotate {', '.join(missing)}, so any word outside its entities may be such")
    return [replace(sentence, unannotated=missing) for sentence in corpus.sentences]


def _opinions(
    teachers: Sequence[Path], sentences: Sequence[Sequence[str]], table: Sequence[str], device: torch.device
) -> list[Opinion]:
    models = []
    for path in teachers:
        models.append(load(path, device))
        if models[-1].tags != tuple(table):
            raise ValueError(
                f"{path}: a teacher of {' '.join(models[-1].tags)}, where the student learns {' '.join(table)}; "
                "train it on the same labels, with the same --scheme"
            )
    if not models:
        return []
    say(f"{len(models)} teachers are tagging {len(sentences):,} sentences")
    return opinions(models, sentences)


def _names(corpora: Sequence[Corpus]) -> list[str]:
    """Names by which figures are told apart: short ones, or where two are alike whole paths."""
    short = [corpus.name for corpus in corpora]
    return short if len(set(short)) == len(short) else [str(corpus.path.absolute()) for corpus in corpora]


def _file(path: Path, digests: Mapping[str, str]) -> dict[str, str]:
    return {"file": path.name, "sha256": digests[str(path.absolute())]}


def _origin(corpus: Corpus, digests: Mapping[str, str]) -> dict[str, Any]:
    each = [_file(path, digests)["sha256"] for path in corpus.files]
    whole = each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()
    return {"file": corpus.path.name, "sha256": whole, "sentences": len(corpus.sentences)}
