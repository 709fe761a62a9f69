"""Pretrained word vectors, as text in the format of GloVe and word2vec or from a checkpoint of ours."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nermodel.checkpoint import load
from nertrainer.corpus import CorpusError

Vectors = dict[str, npt.NDArray[np.float32]]


def read_vectors(path: Path, most: int | None = None) -> Vectors:
    """Lower-cased words with their vectors [D], in the file's order (by custom, most frequent first), at most `most`.

    Where a word stands twice once in lower case, the first counts. CorpusError names a line that does not fit.
    """
    if path.suffix == ".safetensors":
        model = load(path, torch.device("cpu"))
        return dict(zip(model.vocabulary.words[:most], model.network.word.weight[2:].numpy(), strict=False))
    vectors: Vectors = {}
    size = 0
    with path.open(encoding="utf-8", errors="strict") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1:  # word2vec's header: how many, and their size
                continue
            size = size or len(values)
            if len(values) != size or size < 2:
                raise CorpusError(
                    f"{path}:{number}: has {len(values)} numbers, expected {max(size, 2)}; give vectors as text"
                )
            if most is not None and len(vectors) >= most:
                break
            try:
                vectors.setdefault(word.lower(), np.array(values, np.float32))
            except ValueError as error:
                raise CorpusError(
                    f"{path}:{number}: holds something that is not a number; give vectors as text"
                ) from error
    if not vectors:
        raise CorpusError(f"{path}: holds no vectors")
    return vectors
