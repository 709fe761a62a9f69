"""Publishing a model, reading it back, and refusing what is not one."""

import gc
import json
import os
import pickle
import weakref
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.conftest import MakeModel, publish

from nermodel import DEFAULT
from nermodel.checkpoint import Card, CheckpointError, load, rounded, tensors_sha256, versions
from nermodel.network import Network, NetworkConfig
from nermodel.tags import tags_to_spans
from nermodel.text import tokenize
from nermodel.vocabulary import Vocabulary

CPU = torch.device("cpu")
KNOWN = [["Mary", "Okafor", "left", "Oslo"], ["Siemens", "Inc."]]


def header(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    metadata: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return metadata


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    """Change a checkpoint's tensors or card and sign it anew, as a faulty trainer would."""
    tensors = safetensors.torch.load(path.read_bytes())
    card = json.loads(header(path)["nerstream"])
    change(tensors, card)
    path.write_bytes(safetensors.torch.save(tensors))
    resign(path, json.dumps(card))


def resign(path: Path, description: str) -> None:
    """Give a checkpoint another description, signed."""
    tensors = safetensors.torch.load(path.read_bytes())
    metadata = {"nerstream": description, "sha256": tensors_sha256(tensors, description)}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def test_what_is_read_is_what_was_published(make_model: MakeModel, tmp_path: Path) -> None:
    """A published model answers as before, names its folder and number, and keeps its card."""
    model = make_model()
    read = load(publish(tmp_path / "demo", model, KNOWN), CPU)
    assert (read.name, read.version) == ("demo", "demo/000001")
    assert read.tag(KNOWN) == model.tag(KNOWN)
    assert [words for words, _ in read.card.known_answers] == [tuple(words) for words in KNOWN]
    assert (read.tags, read.vocabulary, read.card.metrics) == (model.tags, model.vocabulary, {"dev_f1": 0.5})
    for name, value in model.network.state_dict().items():
        assert torch.equal(read.network.state_dict()[name], value), name


def test_known_answers_are_those_that_reading_proves(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers otherwise on its own device, as at a near tie, makes a file that loads."""
    model = make_model()
    expected = model.tag(KNOWN)
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda batch: -forward(batch))
    assert load(publish(tmp_path, model, KNOWN), CPU).tag(KNOWN) == expected != model.tag(KNOWN)


def test_models_with_the_same_words_have_them_once(make_model: MakeModel, tmp_path: Path) -> None:
    """A vocabulary is shared by the models in memory that were published with it, and goes with the last of them."""
    first, second, other = (
        load(publish(tmp_path / "demo", make_model(seed, words=words), KNOWN), CPU)
        for seed, words in ((1, ("ada", "oslo")), (2, ("ada", "oslo")), (2, ("oslo", "ada")))
    )
    assert first.vocabulary is second.vocabulary is not other.vocabulary
    assert other.vocabulary.words == ("oslo", "ada")
    gone = weakref.ref(first.vocabulary)
    del first, second
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("rows", [10, 70_000])
def test_words_that_share_rows_come_back(make_model: MakeModel, tmp_path: Path, rows: int) -> None:
    """A published vocabulary gives every word the row it had, shared or not, whatever the size of the table."""
    words = [f"word{chr(97 + row % 26)}{row:x}" for row in range(rows)]
    vocabulary = Vocabulary.build([["Oslo"]], 1, words, {"near": words[0], "nearer": words[-1]})
    network = Network(NetworkConfig(word_dim=2, char_filters=0, hidden=2), vocabulary, make_model().tags)
    card = Card(make_model().tags, NetworkConfig(word_dim=2, char_filters=0, hidden=2), {}, {})
    read = load(publish(tmp_path, rounded(card, vocabulary, network, CPU), KNOWN), CPU)
    assert read.vocabulary == vocabulary
    assert read.vocabulary.word_ids(["near", "nearer"]).tolist() == vocabulary.word_ids([words[0], words[-1]]).tolist()


def _words_cut(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"vocabulary.words": tensors["vocabulary.words"][:-9]}))


def _words_not_deflated(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors["vocabulary.words"].fill_(7))


def _words_shared_wrongly(path: Path) -> None:
    def share(tensors: dict[str, torch.Tensor], _: object) -> None:
        words = zlib.decompress(tensors["vocabulary.words"].numpy().tobytes()) + b"another\n"
        tensors["vocabulary.words"] = torch.frombuffer(bytearray(zlib.compress(words)), dtype=torch.uint8)
        tensors["vocabulary.shared"] = torch.tensor([1], dtype=torch.int32)  # of UNK

    rewrite(path, share)


def test_numbers_ascend_and_no_draft_stays(make_model: MakeModel, tmp_path: Path) -> None:
    """Each publication takes the next number, also after a gap, and leaves only whole files."""
    model = make_model()
    (tmp_path / "000007.safetensors").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a version")
    assert publish(tmp_path, model, []).name == "000008.safetensors"
    assert publish(tmp_path, model, []).name == "000009.safetensors"
    assert [path.name for path in versions(tmp_path)] == [f"00000{n}.safetensors" for n in (7, 8, 9)]
    assert not list(tmp_path.glob(".*.partial"))


def test_trainers_at_once_never_take_the_same_number(make_model: MakeModel, tmp_path: Path) -> None:
    """Publications at the same time each land under a number of their own."""
    model = make_model()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: publish(tmp_path, model, KNOWN), range(16)))
    assert sorted(path.name for path in paths) == [f"{number:06}.safetensors" for number in range(1, 17)]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


def _edit_card(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'dev_f1\\": 0.5', b'dev_f1\\": 0.9'))


def _foreign(path: Path) -> None:
    path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))


def _nan(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors["output.bias"].fill_(torch.nan))


def _shape(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"output.bias": torch.zeros(3)}))


def _missing(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.pop("lstm.weight_ih_l0"))


def _no_words(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.pop("vocabulary.words"))


def _wrong_labels(path: Path) -> None:
    rewrite(path, lambda _, card: card.update(tags=["O", "B-A", "Q-A"]))


def _future(path: Path) -> None:
    rewrite(path, lambda _, card: card.update(format=3))


def _huge(path: Path) -> None:
    rewrite(path, lambda _, card: card["network"].update(hidden=10**9))


def _huge_together(path: Path) -> None:
    """With sizes that are allowed each by itself."""
    rewrite(path, lambda _, card: card["network"].update(char_dim=4096, char_filters=4096, char_width=4096))


def _words_shared_by_shape(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"vocabulary.shared": torch.zeros(2, 2, dtype=torch.int32)}))


def _too_many_words(path: Path) -> None:
    """In few bytes: a string each would take 16 GB."""
    words = torch.frombuffer(bytearray(zlib.compress(b"\n" * (1 << 28))), dtype=torch.uint8)
    rewrite(path, lambda tensors, _: tensors.update({"vocabulary.words": words}))


def _complex(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"output.bias": tensors["output.bias"].to(torch.complex64)}))


def _other_answers(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors["output.weight"].mul_(-1))


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (_truncate, "not a whole safetensors file"),
        (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
        (lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"), "not a whole safetensors file"),
        (lambda path: path.write_bytes(pickle.dumps({"weight": [1]})), "not a whole safetensors file"),
        (lambda path: torch.save({"weight": torch.zeros(2)}, path), "not a whole safetensors file"),
        (_foreign, "not a nerstream checkpoint"),
        (_flip, "SHA-256"),
        (_edit_card, "SHA-256"),
        (_nan, "not finite"),
        (_shape, r"output.bias has shape \(3,\), expected \(9,\)"),
        (_missing, "lstm.weight_ih_l0 has shape none"),
        (_no_words, "vocabulary.words' is missing"),
        (_words_cut, "vocabulary.words is cut short"),
        (_words_not_deflated, "vocabulary.words is not deflated"),
        (_words_shared_wrongly, "shares a row"),
        (_wrong_labels, "tag table"),
        (_future, "format 3, expected 2"),
        (lambda path: rewrite(path, lambda _, card: card.update(tags=[])), "tag table"),
        (lambda path: rewrite(path, lambda _, card: card.update(known_answers=[[[1], ["O"]]])), "does not reproduce"),
        (lambda path: rewrite(path, lambda _, card: card.clear()), "malformed"),
        (lambda path: resign(path, "[]"), "malformed"),
        (lambda path: resign(path, "[" * 100_000), "recursion"),
        (_huge, "network.s hidden is"),
        (_huge_together, "the network is larger than any checkpoint"),
        (_words_shared_by_shape, "vocabulary.shared has shape"),
        (_too_many_words, "vocabulary.words holds 268435456 words, expected"),
        (_complex, "output.bias is of torch.complex64"),
        (_other_answers, "does not reproduce"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    make_model: MakeModel, tmp_path: Path, damage: Callable[[Path], None], cause: str
) -> None:
    """Whatever is wrong with a file, the error is one line that names the file and the cause."""
    path = publish(tmp_path, make_model(), KNOWN)
    damage(path)
    with pytest.raises(CheckpointError, match=cause) as caught:
        load(path, CPU)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_padding_weighs_nothing_whatever_the_file_says(make_model: MakeModel, tmp_path: Path) -> None:
    """A file with values in the padding rows gives a model whose answers still do not depend on batch mates."""
    path = publish(tmp_path, make_model(), KNOWN)
    rewrite(path, lambda tensors, _: tensors["char.weight"][0].fill_(9))
    model = load(path, CPU)
    assert not model.network.char.weight[0].any()
    assert model.tag(KNOWN) == make_model().tag(KNOWN)


def test_a_link_belongs_to_the_folder_it_stands_in(make_model: MakeModel, tmp_path: Path) -> None:
    """A checkpoint that is linked into a folder is a version of that folder's model."""
    path = publish(tmp_path / "one", make_model(), KNOWN)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "000005.safetensors").symlink_to(path)
    assert load(tmp_path / "two" / "000005.safetensors", CPU).version == "two/000005"


def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to and a folder do not hold up whoever looks for checkpoints."""
    os.mkfifo(tmp_path / "000001.safetensors")
    (tmp_path / "000002.safetensors").mkdir()
    for path in versions(tmp_path):
        with pytest.raises(CheckpointError, match="not a checkpoint file"):
            load(path, CPU)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    """A file of terabytes that holds next to nothing is refused by its size, before it fills the memory."""
    path = tmp_path / "000001.safetensors"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(CheckpointError, match="1099511627776 bytes, more than a checkpoint may have"):
        load(path, CPU)


def test_only_rounded_weights_are_published(make_model: MakeModel, tmp_path: Path) -> None:
    """Publishing what was read gives the same weights again: rounding twice changes nothing."""
    first = load(publish(tmp_path, make_model(), KNOWN), CPU)
    second = load(publish(tmp_path, replace(first), KNOWN), CPU)
    for name, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value), name


def test_the_embedded_model_is_small_and_knows_the_apple_sentence() -> None:
    """The default model loads, fits in 10 MB and finds the entities of the project's sentence."""
    assert DEFAULT.stat().st_size <= 10_000_000
    model = load(DEFAULT, CPU)
    text = "Apple Inc. was founded by Steve Jobs in California"
    words = [text[start:end] for start, end in tokenize(text)]
    spans = tags_to_spans(model.tags[tag] for tag in model.tag([words])[0])
    assert [(" ".join(words[s.start : s.end]), s.label) for s in spans] == [
        ("Apple Inc.", "ORG"),
        ("Steve Jobs", "PER"),
        ("California", "LOC"),
    ]


def test_the_embedded_model_was_trained_on_openly_licensed_text_alone() -> None:
    """Its provenance names, by their contents, the corpora of its card and no other."""
    provenance = load(DEFAULT, CPU).card.provenance
    gazetteers = [origin["sha256"][:16] for origin in provenance["gazetteers"]]
    assert gazetteers == ["413babe2225a2b5b"]  # examples/gazetteer.tsv
    assert {origin["sha256"][:16] for origin in provenance["train"]} == {
        "917579263c90c01a",  # examples/corpus/train.conll
        "19f0a213ca65e4b0",  # examples/corpus/extra.conll
        "e3af92402a38cd19",  # wikigold, first 1,400 sentences
        "731820e13f71af32",  # WNUT-17 train
        "ac824cc13c88283f",  # Broad Twitter Corpus a
        "504a094a0398e03f",  # b
        "77aca745cdc28ae0",  # e
        "d0839ddb0bd57f3a",  # f
        "d53a27645cabc4e6",  # g
    }
