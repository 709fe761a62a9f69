"""Publication: a trained checkpoint becomes the next version of a model's folder, if it is sound and no step back.

Beside FOLDER/000007.safetensors lies its card, 000007.md; it is written first, so that no version lacks one.
"""

import errno
import filecmp
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch

from nermodel.checkpoint import Card, CheckpointError, Model, load, next_version, parse, read, versions
from nermodel.files import new_file
from nertrainer.card import Measured, label_map, model_card, origins
from nertrainer.corpus import Corpus
from nertrainer.evaluation import evaluate
from nertrainer.reading import read_corpus
from nertrainer.run import BEST, CONFIG, STATE, read_config, read_json, sha256
from nertrainer.seeds import SEEDS

MARGIN = 0.5  # F1 points
Say = Callable[[str], None]


class _Gates:
    """Says what passes, and refuses what does not unless it is forced; keeps the story for the card."""

    def __init__(self, path: Path, force: bool, say: Say) -> None:
        self.story: list[str] = []
        self._path = path
        self._force = force
        self._say = say

    def passed(self, what: str) -> None:
        self.story.append(what)
        self._say(what)

    def failed(self, why: str, cure: str) -> None:
        if not self._force:
            raise ValueError(f"{self._path}: not published, as {why}; {cure}, or give --force")
        self.story.append(f"overridden by --force: {why}")
        self._say(f"warning: --force overrides that {why}")


def publish_gated(
    candidate: Path,
    folder: Path,
    *,
    margin: float = MARGIN,
    force: bool = False,
    say: Say,
    device: torch.device,
    dev: Sequence[Corpus] = (),
    measured: Sequence[Measured] = (),
) -> Path:
    """Publish a checkpoint file, or the best one of a run's folder, as the next version of `folder`; its path.

    The gates, in order: it is whole and finite and reproduces its known answers; it has some; its dev F1 is at most
    `margin` points below that of the newest version that loads; it has every label of that version. `force` overrides
    all but the first. `dev` are corpora to compare the two on instead of the candidate's own dev files; `measured` are
    its figures on its own, where they are known already. ValueError says in one line what refuses it and what to do,
    OSError what cannot be read or written.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"--margin {margin}: expected F1 points, 0 or more")
    path = checkpoint_of(candidate)
    check_writable(folder)
    try:
        data = read(path)
        model = parse(path, data, device)
    except CheckpointError as error:
        raise ValueError(f"{error}; not published, also not with --force: train it anew") from error
    missing = ""
    if dev or not measured:
        corpora, missing = (dev, "") if dev else _own_dev_if_any(path.with_name(CONFIG), model.card, say)
        measured = [Measured(corpus, evaluate(model, corpus.sentences)) for corpus in corpora]
    while True:
        seen = _versions(folder)
        gates = _Gates(path, force, say)
        gates.passed(f"integrity: SHA-256 right, weights finite; tags {', '.join(model.labels)}")
        _check_answers(model, gates)
        live = _newest(seen, device, say)
        if live is None:
            gates.passed(f"dev F1 and labels: {folder} has no version to compare with")
        else:
            if not dev and _same_dev(model.card, live.card):
                _check_f1_by_cards(model, live, margin, gates)
            elif measured:
                _check_f1_by_measure(measured, live, margin, gates)
            else:
                gates.failed(
                    f"its dev F1 cannot be compared with that of {live.version}: {missing}",
                    "name files to compare on, --dev FILE",
                )
            _check_labels(model, live, gates)
        if _versions(folder) == seen:
            return _publish(model, data, folder, measured, gates.story)
        say("another version came meanwhile; through the gates again")


def published_last(checkpoint: Path, folder: Path) -> Path | None:
    """The newest version of `folder`, if it has the bytes of this file; an older one may be published anew."""
    newest = _versions(folder)[-1:]
    return newest[0] if newest and filecmp.cmp(newest[0], checkpoint, shallow=False) else None


def published(checkpoint: Path, folder: Path) -> Path | None:
    """The version of `folder` that has the bytes of this file, if one has."""
    same = (path for path in _versions(folder) if filecmp.cmp(path, checkpoint, shallow=False))
    return next(same, None)


def checkpoint_of(candidate: Path) -> Path:
    """The checkpoint of a run's folder, of the best seed if it has several; ValueError where there is none."""
    if not candidate.is_dir():
        return candidate
    folder = candidate
    if (candidate / SEEDS).exists():
        summary = read_json(candidate / SEEDS)
        if not (isinstance(summary, dict) and type(summary.get("best")) is int):
            raise ValueError(f"{candidate / SEEDS}: does not name the best seed; give one of the folders seed-N")
        folder /= f"seed-{summary['best']}"
    if not (folder / BEST).exists():
        raise ValueError(f"{folder}: holds no {BEST}; let its training end an epoch, or give a checkpoint file")
    return folder / BEST


def check_writable(folder: Path) -> None:
    """OSError or ValueError where nothing can be published into a folder; said before the work, not after."""
    place = next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
    if not place.exists():
        raise ValueError(f"{place}: a link to nothing; make the folder it points to, or give another")
    if any((folder / name).exists() for name in (CONFIG, STATE)):
        raise ValueError(f"{folder}: a run's folder, not a model's; give a folder such as models/en")
    if not place.is_dir():
        raise ValueError(f"{place}: a file, not a model's folder; give a folder such as models/en")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def _own_dev_if_any(config_path: Path, card: Card, say: Say) -> tuple[list[Corpus], str]:
    """As `_own_dev`, with why there are none."""
    try:
        return _own_dev(config_path, card), ""
    except OSError as error:
        missing = f"{error.filename}: {error.strerror}"
    except ValueError as error:
        missing = str(error)
    say(f"warning: the card gets no figures of each type, as {missing}")
    return [], missing


def _own_dev(config_path: Path, card: Card) -> list[Corpus]:
    """The dev files of the run that a checkpoint lies in, as they were; ValueError or OSError where they are not."""
    if not config_path.exists():
        raise ValueError(f"no {CONFIG} beside it names its dev files")
    config = read_config(config_path)
    if not {"dev", "sha256"} <= config.keys():
        raise ValueError(f"{config_path} does not name the dev files and their SHA-256")
    if not (isinstance(config["dev"], list) and all(isinstance(name, str) for name in config["dev"])):
        raise ValueError(f"{config_path}: dev: expected a list of files")
    corpora = []
    for name in config["dev"]:
        corpus = read_corpus(Path(name), label_map(card))
        for file in corpus.files:
            if sha256(file) != config["sha256"].get(str(file.absolute())):
                raise ValueError(f"{file} is not what it was chosen by, by the SHA-256 in {config_path}")
        corpora.append(corpus)
    if [len(corpus.sentences) for corpus in corpora] != [origin.sentences for origin in origins(card, "dev")]:
        raise ValueError(f"the dev files that {config_path} names are not those that it was chosen by")
    return corpora


def _check_answers(model: Model, gates: _Gates) -> None:
    count = sum(bool(words) for words, _ in model.card.known_answers)
    if count:
        gates.passed(f"known answers: all {count} reproduced")
    else:
        gates.failed(
            "it has no known answers for a server to prove it by", "train it with a dev file that has entities"
        )


def _newest(paths: Sequence[Path], device: torch.device, say: Say) -> Model | None:
    """The newest version that loads, which is the one that a server takes."""
    for path in reversed(paths):
        try:
            return load(path, device)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            say(f"warning: passed over {error}")
    return None


def _same_dev(card: Card, live: Card) -> bool:
    """Whether their figures were measured on the same files, with labels renamed alike."""
    both = (card, live)
    return (
        bool(_dev_digests(card))
        and _dev_digests(card) == _dev_digests(live)
        and card.provenance.get("labels") == live.provenance.get("labels")
        and all(math.isfinite(each.metrics.get("dev_f1", math.nan)) for each in both)
    )


def _dev_digests(card: Card) -> list[str]:
    return sorted(origin.sha256 for origin in origins(card, "dev"))


def _check_f1_by_cards(model: Model, live: Model, margin: float, gates: _Gates) -> None:
    f1, live_f1 = (each.card.metrics["dev_f1"] for each in (model, live))
    _check_f1(f1, live_f1, f"{live.version} by their cards, on the same dev files", margin, gates)


def _check_f1_by_measure(measured: Sequence[Measured], live: Model, margin: float, gates: _Gates) -> None:
    f1 = fmean(one.result.overall.f1 for one in measured)
    live_f1 = fmean(evaluate(live, one.corpus.sentences).overall.f1 for one in measured)
    names = ", ".join(one.corpus.name for one in measured)
    _check_f1(f1, live_f1, f"{live.version}, both measured on {names}", margin, gates)


def _check_f1(f1: float, live_f1: float, against: str, margin: float, gates: _Gates) -> None:
    lost = round(100 * (live_f1 - f1), 6)  # without what floats add to a margin
    said = f"{100 * f1:.2f} against {100 * live_f1:.2f} of {against}"
    if lost <= margin:
        gates.passed(f"dev F1: {said}")
    else:
        gates.failed(f"its dev F1 falls by more than --margin {margin:g}: {said}", "train a better one")


def _check_labels(model: Model, live: Model, gates: _Gates) -> None:
    dropped = [label for label in live.labels if label not in model.labels]
    if dropped:
        gates.failed(
            f"it lacks labels of {live.version} that clients may rely on: {', '.join(dropped)}",
            "train it on files that have them",
        )
    else:
        new = ", ".join(label for label in model.labels if label not in live.labels)
        gates.passed(f"labels: all of {live.version}{new and f', and new {new}'}")


def _publish(model: Model, data: bytes, folder: Path, measured: Sequence[Measured], story: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = next_version(folder)
    card = path.with_suffix(".md")
    version = f"{folder.resolve().name}/{path.stem}"
    try:
        new_file(card, model_card(model, version, len(data), measured, story).encode())
        new_file(path, data)
    except BaseException:
        if not (path.is_file() and path.read_bytes() == data):
            card.unlink(missing_ok=True)
        raise
    return path


def _versions(folder: Path) -> list[Path]:
    return versions(folder) if folder.is_dir() else []
