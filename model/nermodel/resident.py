"""The network as it stays on a device: its weights, and a table of what the LSTM reads of each word type.

The LSTM runs over padding, both directions of a layer in one call of cuDNN, which could not be told lengths without the
host: a flag among a word's features shuts the input gate, so that a direction that meets padding first is still at rest
where the sentence begins.

Shapes: B rows, T tokens of the longest, C tags, H hidden units of one direction, D features of a word, E = D and the
flag, rounded up, U words new to the table.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from nermodel.checkpoint import Model
from nermodel.network import LSTM_WEIGHTS, Batch
from nermodel.vocabulary import MAX_WORD_CHARS, casing
from nermodel.word_types import WordTypes

ENCODED_AT_ONCE = 1024  # new words
_SHUT = -10_000.0  # what the flag adds to an input gate, whose sigmoid is then 0


class ResidentNetwork:
    """Emissions of words that are named by their places in the table."""

    def __init__(self, model: Model, dtype: torch.dtype, word_types: int) -> None:
        """ValueError where the weights do not fit the type."""
        self.capacity = word_types
        self._model = model
        self._types = WordTypes(word_types)
        source, hidden, device = model.network, model.card.network.hidden, model.device
        self._features = source.lstm.input_size
        self._table = torch.zeros(word_types + 1, _eights(self._features + 1), dtype=dtype, device=device)
        self._table[word_types, self._features] = 1.0  # the last row is padding's
        self._layers = [_layer(source.lstm, number).to(device, dtype) for number in range(source.lstm.num_layers)]
        self._output = nn.Linear(2 * hidden, len(model.tags)).to(device, dtype)
        self._output.load_state_dict(source.output.state_dict())
        for module in (*self._layers, self._output):
            if not all(weight.isfinite().all() for weight in module.requires_grad_(False).parameters()):
                raise ValueError(
                    f"the model's weights are too large for {str(dtype).removeprefix('torch.')}; use float32"
                )

    def slots(self, words: Sequence[str]) -> npt.NDArray[np.int32]:
        """Places in the table of words [N], encoded there; at most as many different ones as it holds."""
        slots, new, places = self._types.slots(words)
        try:
            for first in range(0, len(new), ENCODED_AT_ONCE):
                self._encode(new[first : first + ENCODED_AT_ONCE], places[first : first + ENCODED_AT_ONCE])
        except BaseException:
            self._types.forget(new)
            raise
        return slots

    def emissions(self, staged: Tensor, rows: int, steps: int) -> Tensor:
        """Emissions [T, B, C] float32 of rows as the device was told of them; those of padding mean nothing.

        staged: where each row begins among the words [B], its length or 0 [B], and slots of words [at most B * T].
        """
        starts, lengths, words = staged[:rows], staged[rows : 2 * rows], staged[2 * rows :]
        time = torch.arange(steps, dtype=torch.int32, device=staged.device).unsqueeze(1)
        is_padding = time >= lengths  # [T, B]
        places = (starts + time).masked_fill(is_padding, 0)
        table_rows = words[places].masked_fill(is_padding, self.capacity)
        x = embedding(table_rows, self._table)  # [T, B, E]
        with self._exactly():
            for number, layer in enumerate(self._layers):
                if number:
                    x = pad(x, (0, layer.input_size - x.shape[2]))
                    x[:, :, 2 * layer.hidden_size] = is_padding
                x = layer(x)[0]  # [T, B, 2H]
            scores: Tensor = self._output(x).float()
        return scores

    def _encode(self, words: Sequence[str], places: Sequence[int]) -> None:
        """Write what the LSTM reads of words into the table, in a few shapes only, as cuDNN plans for each anew."""
        vocabulary, device = self._model.vocabulary, self._model.device
        count = len(words)
        staged = pinned(max(power_of_two(count), 16) * (3 + MAX_WORD_CHARS), torch.int32, device)
        values = staged.numpy().reshape(-1, 3 + MAX_WORD_CHARS)
        values[:] = 0
        values[:count, 0] = places
        values[:count, 1] = vocabulary.word_ids(words)
        values[:count, 2] = [casing(word) for word in words]
        chars = vocabulary.char_ids(words)
        values[:count, 3 : 3 + chars.shape[1]] = chars
        columns = staged.to(device, non_blocking=True).long().view(values.shape)
        ids = columns[:, 1]
        with self._exactly():
            batch = Batch(words=ids, chars=columns[:, 3:], casings=columns[:, 2], tokens=ids, lengths=ids)
            features = self._model.network.word_features(batch)[:count]
        most = torch.finfo(self._table.dtype).max
        features = pad(features.clamp(-most, most), (0, self._table.shape[1] - self._features))
        self._table.index_copy_(0, columns[:count, 0], features.to(self._table.dtype))

    def _exactly(self) -> AbstractContextManager[None]:
        """On a GPU: with cuDNN's tensor cores not rounding float32, as by default they do."""
        if self._model.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def pinned(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the host [size] that the device copies to and from by itself, where it is one that does."""
    return torch.empty(size, dtype=dtype, pin_memory=device.type == "cuda")


def copied(staged: Tensor, size: int, device: torch.device) -> Tensor:
    """A place [size] on the device that begins with what is staged on the host, for which the host does not wait."""
    place = torch.empty(size, dtype=staged.dtype, device=device)
    place[: len(staged)].copy_(staged, non_blocking=True)
    return place


def power_of_two(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << (count - 1).bit_length()


def _layer(source: nn.LSTM, layer: int) -> nn.LSTM:
    """A layer of a bidirectional LSTM by itself, which reads its input and after it a flag that shuts it."""
    hidden = source.hidden_size
    features = 2 * hidden if layer else source.input_size
    copy = nn.LSTM(_eights(features + 1), hidden, bidirectional=True)
    weights = dict(copy.named_parameters())
    for suffix in ("", "_reverse"):
        for name in LSTM_WEIGHTS:
            weight = weights[f"{name}_l0{suffix}"].data
            if name == "weight_ih":
                weight.zero_()
                weight[:hidden, features] = _SHUT  # the first rows are the input gate's
                weight = weight[:, :features]
            weight.copy_(getattr(source, f"{name}_l{layer}{suffix}"))
    return copy.eval()  # in training cuDNN keeps what gradients need


def _eights(size: int) -> int:
    """Rounded up to what tensor cores take at once."""
    return -(-size // 8) * 8
