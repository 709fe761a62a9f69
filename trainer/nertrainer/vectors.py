"""Pretrained word vectors, as text in the format of GloVe and word2vec or from a checkpoint of ours."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nermodel.checkpoint import load
from nertrainer.corpus import CorpusError

LARGEST = np.finfo(np.float32).max
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
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2:  # word2vec's header: how many, and their size
                    continue
                size = size or len(parts) - 1
                if most is not None and len(vectors) >= most:
                    break
                values = np.array(parts[-size:], np.float64)
                if len(parts) <= size or size < 2 or not np.abs(values).max() <= LARGEST:
                    raise ValueError
                vectors.setdefault(" ".join(parts[:-size]).lower(), values.astype(np.float32))
    except ValueError as error:  # also text that is not UTF-8
        said = f"not a word and {size} numbers" if size > 1 else "not a word and its numbers"
        raise CorpusError(f"{path}:{max(number, 1)}: {said}; give vectors as UTF-8 text, as GloVe's are") from error
    if not vectors:
        raise CorpusError(f"{path}: holds no vectors")
    return vectors
