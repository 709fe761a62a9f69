"""The temperature at which a model's scores are honest: of entities scored 0.8, 80 % are right."""

from collections.abc import Sequence

import torch

from nermodel.checkpoint import Model
from nermodel.crf import path_spans, span_probabilities, viterbi
from nertrainer.batches import by_length
from nertrainer.corpus import Corpus
from nertrainer.evaluation import BATCH_TOKENS

TRIED = [round(0.5 * 1.1**step, 3) for step in range(22)]  # 0.5 to 3.7


@torch.inference_mode()
def fitted_temperature(model: Model, corpora: Sequence[Corpus]) -> float:
    """The one of TRIED under which the entities that the model finds are right as often as it says (Guo et al. 2017).

    That is the least mean -log P of right and wrong over the corpora, each counting alike; entities of labels that a
    corpus does not annotate are left out. 1 where no entity is found.
    """
    losses = torch.zeros(len(TRIED), dtype=torch.float64)
    for corpus in corpora:
        scores, right = _scores(model, corpus)  # [N, tried], [N]
        if len(right):
            chances = torch.where(right.unsqueeze(1), scores, 1 - scores).clamp(min=1e-6)
            losses -= chances.log().mean(dim=0)
    return TRIED[int(losses.argmin())] if losses.any() else 1.0


def _scores(model: Model, corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each entity found, its probability at every temperature [N, tried], and whether the file has it [N]."""
    scores: list[torch.Tensor] = [torch.zeros(0, len(TRIED), dtype=torch.float64)]
    right: list[bool] = []
    for batch in by_length([sentence.words for sentence in corpus.sentences], BATCH_TOKENS):
        words = [corpus.sentences[index].words for index in batch]
        at_one = model.potentials(words)
        path = viterbi(*at_one)
        rows, starts, ends = path_spans(path, at_one.lengths, at_one.start)
        each = [span_probabilities(at_one.tempered(tried), path, rows, starts, ends) for tried in TRIED]
        found = torch.stack(each, dim=1).double().cpu()
        spans = zip(rows.tolist(), starts.tolist(), ends.tolist(), path[rows, starts].tolist(), strict=True)
        for row, (sentence, start, end, tag) in enumerate(spans):
            label = model.tags[tag][2:]
            if label in corpus.labels:
                scores.append(found[row : row + 1])
                right.append((start, end, label) in corpus.sentences[batch[sentence]].spans)
    return torch.cat(scores), torch.tensor(right, dtype=torch.bool)
