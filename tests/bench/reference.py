"""Plain torch, which the benchmarks measure ours against, and their sentences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nermodel.checkpoint import Model
from nermodel.network import Batch

EXAMPLES = Path(__file__).parents[2] / "examples/corpus"


class PlainTorch:
    """`nn.LSTM` over packed sentences, then `torchcrf.CRF.decode` with a mask, on the model's device."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @torch.inference_mode()
    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[int]]:
        """Ids of the best tags of each sentence's words, all sentences as one batch; none of them may be empty."""
        network = self.model.network
        batch = Batch.of(sentences, self.model.vocabulary, self.model.device)
        features = network.word_features(batch)[batch.tokens]  # [B, T, D]
        packed = pack_padded_sequence(features, batch.lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(network.lstm(packed)[0], batch_first=True)  # [B, T, 2H]
        paths: list[list[int]] = network.crf.decode(network.output(states), mask=batch.mask)
        return paths

    def tag_each(self, requests: Sequence[Sequence[Sequence[str]]]) -> list[list[list[int]]]:
        """As `tag`, of the sentences of some requests as one batch; one list of paths for each request."""
        paths = iter(self.tag([sentence for request in requests for sentence in request]))
        return [[next(paths) for _ in request] for request in requests]


def corpus() -> list[list[str]]:
    """The sentences of examples/corpus as tokens."""
    return [
        [line.split("\t")[0] for line in block.split("\n")[2:]]  # after its comments
        for part in ("train", "dev", "test")
        for block in (EXAMPLES / f"{part}.conll").read_text(encoding="utf-8").strip().split("\n\n")
    ]
