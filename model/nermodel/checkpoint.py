"""A checkpoint: one safetensors file that holds a whole model and proves itself when it is read.

`FOLDER/000007.safetensors` is version 7 of the model named after its folder. Weights are kept in bfloat16 and the word
table in int8 with one scale a row; the header's metadata holds a JSON description (`Card`), the vocabulary is a tensor.
Reading verifies format, SHA-256, shapes and finite weights, and that the model reproduces the answers it was published
with. Nothing here can run code from a file: no pickle.
"""

import hashlib
import json
import math
import re
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.overrides import TorchFunctionMode

from nermodel.crf import Potentials, viterbi
from nermodel.files import replace_file
from nermodel.network import Batch, Network, NetworkConfig
from nermodel.tags import check_table, labels_of
from nermodel.vocabulary import PAD, Vocabulary
from nermodel.windows import windows

FORMAT = 2
MAX_SIZE = 4096  # of any one dimension of a network
MAX_WORDS = 1 << 28  # bytes of a vocabulary's text
MAX_BYTES = 1 << 31  # of a file: one that only looks large, or is no checkpoint, must not fill the memory
WINDOWS_AT_ONCE = 4  # of long sentences, in the network: more are no faster and take more memory
_NUMBERED = re.compile(r"\d{6,}\.safetensors")
_SCALE = "word.scale"  # of each row of the int8 word table
_WORDS = "vocabulary.words"  # UTF-8, each word ended by a line feed, deflated
_SHARED = "vocabulary.shared"  # rows of the last words, which have none of their own
_CHARS = "vocabulary.chars"  # UTF-8
_CARD = "nerstream"  # the key of the header's metadata
_vocabularies: WeakValueDictionary[str, Vocabulary] = WeakValueDictionary()  # those alive, by what they were read from


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be served; the message is one line and names the file and the cause."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself besides its weights."""

    tags: tuple[str, ...]  # the order of the network's outputs
    network: NetworkConfig
    metrics: Mapping[str, float]  # measured on the model as published: "dev_f1" in [0, 1]
    provenance: Mapping[str, Any]  # how it was trained: files, recipe, seed, versions
    known_answers: Sequence[tuple[Sequence[str], Sequence[str]]] = ()  # sentences with the tags this model gives them
    temperature: float = 1.0  # of probabilities; no tag depends on it
    created: str = ""  # ISO 8601, UTC; set when it is written

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """From `to_json`'s values; ValueError where they are not a card."""
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}, expected {FORMAT}")
            card = cls(
                tags=tuple(map(str, values["tags"])),
                network=NetworkConfig(**values["network"]),
                metrics={str(name): float(value) for name, value in values["metrics"].items()},
                provenance=dict(values["provenance"]),
                known_answers=[
                    (tuple(map(str, words)), tuple(map(str, tags))) for words, tags in values["known_answers"]
                ],
                temperature=float(values.get("temperature", 1.0)),
                created=str(values["created"]),
            )
            datetime.fromisoformat(card.created)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the description is malformed: {error!r}") from error
        if not 0.01 <= card.temperature <= 100:
            raise ValueError(f"the temperature is {card.temperature}, expected one from 0.01 to 100")
        for name, size in asdict(card.network).items():
            least = 0 if name == "char_filters" else 1
            if not (isinstance(size, int) and least <= size <= MAX_SIZE):
                raise ValueError(f"the network's {name} is {size!r}, expected one from {least} to {MAX_SIZE}")
        check_table(card.tags)
        return card


@dataclass(frozen=True)
class Model:
    """One version of a model, ready to tag on its device: the snapshot that is swapped as a whole."""

    name: str  # "en"
    version: str  # "en/000007"
    card: Card
    vocabulary: Vocabulary
    network: Network
    sha256: str
    device: torch.device

    @property
    def tags(self) -> tuple[str, ...]:
        """The table that tag ids index."""
        return self.card.tags

    @property
    def labels(self) -> tuple[str, ...]:
        """Entity types, sorted."""
        return labels_of(self.card.tags)

    @torch.inference_mode()
    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[int]]:
        """Ids of the best legal tags of each sentence's words, all sentences as one batch; an empty one has none."""
        full = [sentence for sentence in sentences if sentence]
        if not full:
            return [[] for _ in sentences]
        paths = iter(viterbi(*self.potentials(full)).tolist())
        return [next(paths)[: len(sentence)] if sentence else [] for sentence in sentences]

    @torch.inference_mode()
    def potentials(self, sentences: Sequence[Sequence[str]]) -> Potentials:
        """What the functions of `nermodel.crf` read, of sentences of at least one word each, before the temperature.

        Very long sentences are read in windows (see `nermodel.windows`), a few at a time.
        """
        parts = [(row, window) for row, sentence in enumerate(sentences) for window in windows(len(sentence))]
        if len(parts) == len(sentences):
            return self.network.potentials(Batch.of(sentences, self.vocabulary, self.device))
        kept: list[list[Tensor]] = [[] for _ in sentences]
        for first in range(0, len(parts), WINDOWS_AT_ONCE):
            some = parts[first : first + WINDOWS_AT_ONCE]
            words = [sentences[row][window.start : window.end] for row, window in some]
            potentials = self.network.potentials(Batch.of(words, self.vocabulary, self.device))
            for (row, window), scores in zip(some, potentials.emissions, strict=True):
                kept[row].append(scores[window.keep_start - window.start : window.keep_end - window.start])
        emissions = pad_sequence([torch.cat(each) for each in kept], batch_first=True)  # [B, T, C]
        lengths = torch.tensor([len(sentence) for sentence in sentences], device=self.device)
        return potentials._replace(emissions=emissions, lengths=lengths)


def rounded(card: Card, vocabulary: Vocabulary, network: Network, device: torch.device) -> Model:
    """The model that publishing this network would give back: its weights rounded as a checkpoint keeps them."""
    return _build(_pack(network, vocabulary), card, vocabulary, device)


def write(path: Path, model: Model, known: Sequence[Sequence[str]]) -> None:
    """Write a model, as `rounded` or `load` gave it, to `path` in place of what is there, wholly or not at all.

    `known` are sentences whose tags become the card's known answers.
    """
    check_table(model.tags)
    tensors = _pack(model.network, model.vocabulary)
    # As `parse` proves them, so that no near tie falls otherwise there: in float32 on the CPU, one by one.
    proof = _build(tensors, model.card, model.vocabulary, torch.device("cpu"))
    answers = [(tuple(words), tuple(model.tags[tag] for tag in proof.tag([words])[0])) for words in known]
    card = replace(model.card, known_answers=answers, created=datetime.now(UTC).isoformat(timespec="seconds"))
    description = json.dumps(card.to_json(), ensure_ascii=False)
    metadata = {_CARD: description, "sha256": tensors_sha256(tensors, description)}
    replace_file(path, safetensors.torch.save(tensors, metadata))


def next_version(folder: Path) -> Path:
    """Where the next version of a folder goes: a path that nobody else is given, and that is never given again.

    An empty file `.000007.taken` keeps the number when the version is gone: a server that served it takes no other
    under its number, and a client could not tell the two apart.
    """
    number = max((int(path.stem) for path in versions(folder)), default=0)
    while True:
        number += 1
        try:
            (folder / f".{number:06}.taken").touch(exist_ok=False)
        except FileExistsError:
            continue
        if not any(folder.glob(f"{number:06}.*")):  # such as the card of a version that is gone
            return folder / f"{number:06}.safetensors"


def versions(folder: Path) -> list[Path]:
    """The checkpoint files of a model's folder, oldest version first."""
    return sorted(
        (path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name)), key=lambda path: int(path.stem)
    )


def load(path: Path, device: torch.device) -> Model:
    """Read and verify a checkpoint; CheckpointError says what is wrong with it, OSError why it cannot be read."""
    return parse(path, read(path), device)


def read(path: Path) -> bytes:
    """The bytes of a file, for `parse`; CheckpointError where it is no file or larger than any checkpoint."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: a folder or a device, not a checkpoint file")
    if status.st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: {status.st_size} bytes, more than a checkpoint may have ({MAX_BYTES})")
    # Read whole, not mapped: a file that is overwritten in place must not reach into a running server.
    return path.read_bytes()


def parse(path: Path, data: bytes, device: torch.device) -> Model:
    """As `load`, of the file's bytes."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {_line(error)}") from error
    if _CARD not in header:
        raise CheckpointError(f"{path}: a safetensors file, but not a nerstream checkpoint")
    if header.get("sha256") != tensors_sha256(tensors, header[_CARD]):
        raise CheckpointError(f"{path}: the SHA-256 does not match its contents; it was damaged or edited")
    name = path.parent.resolve().name  # of the folder it is found in, also where it is a link
    try:
        card = Card.from_json(json.loads(header[_CARD]))
        rows = tensors["word.weight"].numel() // card.network.word_dim
        vocabulary = _vocabulary({key: tensors.pop(key) for key in (_WORDS, _CHARS, _SHARED)}, rows)
        version = f"{name}/{path.stem}"
        model = _build(tensors, card, vocabulary, device, name, version, header["sha256"])
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing") from error
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: {_line(error)}") from error
    for words, expected in card.known_answers:
        (found,) = model.tag([words])
        if tuple(model.tags[tag] for tag in found) != expected:
            raise CheckpointError(f"{path}: does not reproduce the answers it was published with")
    return model


def _vocabulary(tensors: Mapping[str, Tensor], rows: int) -> Vocabulary:
    """What these tensors hold, for a word table of so many rows: the one in memory where a model has it already.

    So a model that goes on from another shares its words, and reading them is most of what a load takes.
    """
    digest = tensors_sha256(tensors, "")
    vocabulary = _vocabularies.get(digest)
    if vocabulary is None:
        text, shared = _inflated(tensors[_WORDS]), tensors[_SHARED]
        if shared.dim() != 1 or shared.dtype not in (torch.uint16, torch.int32):
            raise ValueError(f"{_SHARED} has shape {_shape(shared.shape)} of {shared.dtype}, expected rows as integers")
        if (count := text.count(b"\n")) != rows - 2 + len(shared):  # before each takes memory as a string
            raise ValueError(f"{_WORDS} holds {count} words, expected {rows - 2} with rows and {len(shared)} without")
        # Line by line: a split of them all would hold up every other thread of a server that loads.
        words = tuple(line[:-1] for line in StringIO(text.decode(), newline="\n"))
        chars = bytes(tensors[_CHARS].numpy()).decode()
        vocabulary = _vocabularies[digest] = Vocabulary(words, chars, tuple(shared.tolist()))
    return vocabulary


def _pack(network: Network, vocabulary: Vocabulary) -> dict[str, Tensor]:
    tensors = {name: value.to(torch.bfloat16).cpu().contiguous() for name, value in network.state_dict().items()}
    table = network.word.weight.detach().float().cpu()
    scale = table.abs().amax(dim=1).clamp(min=1e-12) / 127
    tensors["word.weight"] = (table / scale.unsqueeze(1)).round().to(torch.int8)
    tensors[_SCALE] = scale
    tensors[_WORDS] = _bytes(zlib.compress("".join(f"{word}\n" for word in vocabulary.words).encode(), 9))
    is_small = vocabulary.word_rows <= 1 << 16
    tensors[_SHARED] = torch.tensor(vocabulary.shared, dtype=torch.uint16 if is_small else torch.int32)
    tensors[_CHARS] = _bytes(vocabulary.chars.encode())
    return tensors


class _Unset(TorchFunctionMode):
    """Within, new modules leave their weights as the memory was: to draw what is then overwritten takes time.

    ValueError where they want more weights than any checkpoint has.
    """

    def __init__(self) -> None:
        super().__init__()
        self._room = MAX_BYTES  # a weight takes a byte or more

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None  # nobody uses the result
        if func is torch.empty:
            self._room -= math.prod(args[0] if isinstance(args[0], Sequence) else args)
            if self._room < 0:
                raise ValueError("the network is larger than any checkpoint")
        return func(*args, **(kwargs or {}))


def _build(
    tensors: dict[str, Tensor],
    card: Card,
    vocabulary: Vocabulary,
    device: torch.device,
    name: str = "",
    version: str = "",
    sha256: str = "",
) -> Model:
    """A model of the file's tensors; ValueError where they do not fit the card."""
    weights = {key: value for key, value in tensors.items() if key not in (_SCALE, _WORDS, _SHARED, _CHARS)}
    with _Unset():
        network = Network(card.network, vocabulary, card.tags)  # which touches no memory yet
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in weights.items()}
    if found != expected:
        wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        raise ValueError(
            f"{wrong[0]} has shape {_shape(found.get(wrong[0]))}, expected {_shape(expected.get(wrong[0]))}"
        )
    if _SCALE not in tensors or tensors[_SCALE].shape != (vocabulary.word_rows,):
        raise ValueError(f"{_SCALE} is missing or has the wrong shape")
    if weights["word.weight"].dtype is not torch.int8:
        raise ValueError(f"word.weight is of {weights['word.weight'].dtype}, expected int8")
    weights["word.weight"] = weights["word.weight"].float() * tensors[_SCALE].float().unsqueeze(1)
    for key, value in weights.items():
        if not value.is_floating_point():
            raise ValueError(f"{key} is of {value.dtype}")
        weights[key] = value.float()
        if not weights[key].isfinite().all():
            raise ValueError(f"{key} holds values that are not finite numbers")
    network.load_state_dict(weights)
    for table in (network.word, network.char):  # else a word would depend on the longest of its batch
        table.weight.data[PAD] = 0.0
    network.forbid_illegal()
    network.eval().requires_grad_(False).to(device)
    return Model(name, version, card, vocabulary, network, sha256, device)


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _inflated(tensor: Tensor) -> bytes:
    """What was deflated; ValueError where it was not, or would fill the memory."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(tensor.numpy().tobytes(), MAX_WORDS)
    except zlib.error as error:
        raise ValueError(f"{_WORDS} is not deflated text") from error
    if not inflate.eof:
        raise ValueError(f"{_WORDS} is cut short, or larger than {MAX_WORDS} bytes")
    return data


def tensors_sha256(tensors: Mapping[str, Tensor], description: str) -> str:
    """The SHA-256 of tensors on the CPU, with their names, types and shapes, and of a description of them."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shape(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
