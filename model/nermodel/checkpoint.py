"""A checkpoint: one safetensors file that holds a whole model and proves itself when it is read.

`FOLDER/000007.safetensors` is version 7 of the model named after its folder. Weights are kept in bfloat16 and the word
table in int8 with one scale a row; the header's metadata holds a JSON description (`Card`), the vocabulary is a tensor.
Reading verifies format, SHA-256, shapes and finite weights, and that the model reproduces the answers it was published
with. Nothing here can run code from a file: no pickle.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nermodel.network import Batch, Network, NetworkConfig
from nermodel.tags import check_table, labels_of
from nermodel.vocabulary import PAD, Vocabulary

FORMAT = 1
MAX_SIZE = 4096  # of any one dimension of a network
DEFAULT = Path(__file__).parent / "en" / "000001.safetensors"
_NUMBERED = re.compile(r"\d{6,}\.safetensors")
_SCALE = "word.scale"  # of each row of the int8 word table
_WORDS = "vocabulary.words"  # UTF-8, each word ended by a line feed
_CHARS = "vocabulary.chars"  # UTF-8
_CARD = "nerstream"  # the key of the header's metadata


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
    created: str = ""  # ISO 8601, UTC; set when it is published

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
                created=str(values["created"]),
            )
            datetime.fromisoformat(card.created)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the description is malformed: {error!r}") from error
        if not all(isinstance(size, int) and 0 < size <= MAX_SIZE for size in asdict(card.network).values()):
            raise ValueError(f"a size of the network is not a whole number from 1 to {MAX_SIZE}")
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
        paths = iter(self.network.decode(Batch.of(full, self.vocabulary, self.device)).tolist())
        return [next(paths)[: len(sentence)] if sentence else [] for sentence in sentences]


def rounded(card: Card, vocabulary: Vocabulary, network: Network, device: torch.device) -> Model:
    """The model that publishing this network would give back: its weights rounded as a checkpoint keeps them."""
    return _build(_pack(network, vocabulary), card, vocabulary, device)


def publish(folder: Path, model: Model, known: Sequence[Sequence[str]]) -> Path:
    """Write a model, as `rounded` or `load` gave it, into `folder` as its next version, wholly or not at all.

    The folder is made if need be. `known` are sentences whose tags become the card's known answers. Returns the path.
    """
    check_table(model.tags)
    folder.mkdir(parents=True, exist_ok=True)
    answers = [
        (tuple(words), tuple(model.tags[tag] for tag in tags))
        for words, tags in zip(known, model.tag(known), strict=True)
    ]
    card = replace(model.card, known_answers=answers, created=datetime.now(UTC).isoformat(timespec="seconds"))
    tensors = _pack(model.network, model.vocabulary)
    description = json.dumps(card.to_json(), ensure_ascii=False)
    data = safetensors.torch.save(tensors, {_CARD: description, "sha256": _sha256(tensors, description)})
    partial = folder / f".{uuid4().hex}.partial"
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path = _link_as_next(partial, folder)
    finally:
        partial.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path


def versions(folder: Path) -> list[Path]:
    """The checkpoint files of a model's folder, oldest version first."""
    return sorted(
        (path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name)), key=lambda path: int(path.stem)
    )


def load(path: Path, device: torch.device) -> Model:
    """Read and verify a checkpoint; CheckpointError says what is wrong with it, OSError why it cannot be read."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(f"{path}: a folder or a device, not a checkpoint file")
    # The file is read whole, not mapped: one that is overwritten in place must not reach into a running server.
    data = path.read_bytes()
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {_line(error)}") from error
    if _CARD not in header:
        raise CheckpointError(f"{path}: a safetensors file, but not a nerstream checkpoint")
    if header.get("sha256") != _sha256(tensors, header[_CARD]):
        raise CheckpointError(f"{path}: the SHA-256 does not match its contents; it was damaged or edited")
    name = path.parent.resolve().name  # of the folder it is found in, also where it is a link
    try:
        card = Card.from_json(json.loads(header[_CARD]))
        vocabulary = Vocabulary(tuple(_text(tensors.pop(_WORDS)).split("\n")[:-1]), _text(tensors.pop(_CHARS)))
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


def _pack(network: Network, vocabulary: Vocabulary) -> dict[str, Tensor]:
    tensors = {name: value.to(torch.bfloat16).cpu().contiguous() for name, value in network.state_dict().items()}
    table = network.word.weight.detach().float().cpu()
    scale = table.abs().amax(dim=1).clamp(min=1e-12) / 127
    tensors["word.weight"] = (table / scale.unsqueeze(1)).round().to(torch.int8)
    tensors[_SCALE] = scale
    tensors[_WORDS] = _bytes("".join(f"{word}\n" for word in vocabulary.words))
    tensors[_CHARS] = _bytes(vocabulary.chars)
    return tensors


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
    weights = {key: value for key, value in tensors.items() if key not in (_SCALE, _WORDS, _CHARS)}
    with torch.device("meta"):
        expected = {
            key: value.shape for key, value in Network(card.network, vocabulary, card.tags).state_dict().items()
        }
    found = {key: value.shape for key, value in weights.items()}
    if found != expected:
        wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        raise ValueError(
            f"{wrong[0]} has shape {_shape(found.get(wrong[0]))}, expected {_shape(expected.get(wrong[0]))}"
        )
    if _SCALE not in tensors or tensors[_SCALE].shape != (vocabulary.word_rows,):
        raise ValueError(f"{_SCALE} is missing or has the wrong shape")
    weights["word.weight"] = weights["word.weight"].float() * tensors[_SCALE].float().unsqueeze(1)
    for key, value in weights.items():
        weights[key] = value.float()
        if not weights[key].isfinite().all():
            raise ValueError(f"{key} holds values that are not finite numbers")
    network = Network(card.network, vocabulary, card.tags)
    network.load_state_dict(weights)
    for table in (network.word, network.char):  # else a word would depend on the longest of its batch
        table.weight.data[PAD] = 0.0
    network.forbid_illegal()
    network.eval().requires_grad_(False).to(device)
    return Model(name, version, card, vocabulary, network, sha256, device)


def _bytes(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())


def _text(tensor: Tensor) -> str:
    return bytes(tensor.numpy()).decode()


def _link_as_next(partial: Path, folder: Path) -> Path:
    """Give the file the folder's next number; a link, unlike a rename, never lands on another trainer's file."""
    number = max((int(path.stem) for path in versions(folder)), default=0)
    while True:
        number += 1
        path = folder / f"{number:06}.safetensors"
        try:
            os.link(partial, path)
        except FileExistsError:
            continue
        return path


def _sha256(tensors: Mapping[str, Tensor], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _shape(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
