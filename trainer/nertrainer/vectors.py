"""Pretrained word vectors, as text in the format of GloVe and word2vec or from a checkpoint of ours.

Shapes: W words, R rows, D numbers of a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nermodel.checkpoint import Model, load
from nertrainer.corpus import CorpusError, check_regular

LARGEST = np.finfo(np.float32).max
MEASURED = 50_000  # of the first words, which are the frequent ones by custom
Array = npt.NDArray[np.float32]


class Vectors(Mapping[str, Array]):
    """Vectors [D] of lower-cased words, in the order of their file (by custom, most frequent first)."""

    def __init__(self, words: Sequence[str] = (), table: Array | None = None):
        self.table = np.zeros((0, 0), np.float32) if table is None else table  # [W, D]
        self._rows = {word: row for row, word in enumerate(words)}

    def __getitem__(self, word: str) -> Array:
        """The vector of a word [D]."""
        vector: Array = self.table[self._rows[word]]
        return vector

    def __contains__(self, word: object) -> bool:
        return word in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return int(self.table.shape[1])


def read_vectors(path: Path, most: int | None = None) -> Vectors:
    """The first `most` vectors of a file; CorpusError names a line that does not fit.

    Where a word stands in several cases, the one in lower case counts, else the first.
    """
    if path.suffix == ".safetensors":
        return vectors_of(load(path, torch.device("cpu")), most)
    check_regular(path)
    rows: dict[str, int] = {}
    lower: set[str] = set()
    values: list[Array] = []
    size = 0
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2:  # word2vec's header: how many, and their size
                    continue
                size = size or len(parts) - 1
                written = " ".join(parts[:-size])
                word = written.lower()
                if word in lower or (word in rows and written != word):
                    continue
                if most is not None and word not in rows and len(rows) >= most:
                    break
                vector = np.array(parts[-size:], np.float64)
                if len(parts) <= size or size < 2:
                    raise ValueError
                if not np.abs(vector).max() <= LARGEST:
                    raise CorpusError(
                        f"{path}:{number}: a number that is not finite, or too large for 32 bits; mend the line or "
                        "leave it out"
                    )
                rows[word] = len(values)
                values.append(vector.astype(np.float32))
                if written == word:
                    lower.add(word)
    except CorpusError:
        raise
    except ValueError as error:  # also text that is not UTF-8
        said = f"not a word and {size} numbers" if size > 1 else "not a word and its numbers"
        raise CorpusError(f"{path}:{max(number, 1)}: {said}; give vectors as UTF-8 text, as GloVe's are") from error
    if not rows:
        raise CorpusError(f"{path}: holds no vectors; give UTF-8 text with a word and its numbers on each line")
    return Vectors(list(rows), np.stack([values[row] for row in rows.values()]))


def vectors_of(model: Model, most: int | None = None) -> Vectors:
    """The rows of a model's first `most` words, those with a row of their own first."""
    words = model.vocabulary.words[:most]
    return Vectors(words, model.network.word.weight.cpu().numpy()[model.vocabulary.word_ids(words)])


def joined(parts: Sequence[Vectors]) -> Vectors:
    """All words of several, their vectors end to end and of like scale; where a part lacks a word it gives zeros."""
    if len(parts) == 1:
        return parts[0]
    words = list(dict.fromkeys(word for part in parts for word in part))
    tables = []
    for part in parts:
        table = np.zeros((len(words), part.size), np.float32)
        scale = np.abs(parts[0].table).mean() / max(np.abs(part.table).mean(), 1e-12)
        for row, word in enumerate(words):
            if word in part:
                table[row] = part[word] * scale
        tables.append(table)
    return Vectors(words, np.concatenate(tables, axis=1))


def reduced(vectors: Vectors, size: int) -> Vectors:
    """Their `size` principal components, by the first MEASURED words; the mean of a number's size stays as it was."""
    table = vectors.table - vectors.table[:MEASURED].mean(axis=0)
    _, axes = np.linalg.eigh(table[:MEASURED].T @ table[:MEASURED])  # the largest last
    axes = axes[:, : -size - 1 : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(size)])  # of either sign: take the same always
    table = table @ axes
    return Vectors(list(vectors), table * (np.abs(vectors.table).mean() / np.abs(table).mean()))


def nearest(vectors: Vectors, own: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    """For each of `words`, the one of `own` words that is nearest by cosine."""
    if not words:
        return {}
    unit = {}
    for name, group in (("own", own), ("words", words)):
        table = np.stack([vectors[word] for word in group])
        unit[name] = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)
    found: dict[str, str] = {}
    for start in range(0, len(words), 1024):
        best = (unit["words"][start : start + 1024] @ unit["own"].T).argmax(axis=1)
        found |= {word: own[row] for word, row in zip(words[start : start + 1024], best, strict=True)}
    return found
