"""Checkpoints that come while calls run: good ones one after another, bad ones of every kind, and what swaps cost."""

import asyncio
import copy
import json
import os
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import safetensors.torch
import torch
from tests.chaos.callers import CALLERS, Callers, spans
from tests.chaos.conftest import Serving, asked, serving, until
from tests.conftest import Figure, MakeModel

from nermodel import DEFAULT
from nermodel.checkpoint import load, rounded, tensors_sha256, write
from nermodel.native import NativeTagger

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]
SWAPS = 20
PERIOD_S = 1.5
STEADY_S = 5.0
VARIANTS = 4
TINY_SWAPS = 200
SETTLED = 50  # of them
WORDS = ("Ada", "Babbage", "London", "of", "the", "met", "Acme", "Inc.", "in", "French", ".", ",")
CPU = torch.device("cpu")


def place(folder: Path, number: int, data: bytes) -> Path:
    """Make the bytes a version of the folder in one step, as a careful copy does."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:06}.safetensors"
    (folder / ".copy").write_bytes(data)
    (folder / ".copy").rename(path)
    return path


def variants(folder: Path) -> list[bytes]:
    """The embedded model, and others of its size whose labels are turned round, so that they answer otherwise."""
    base = load(DEFAULT, CPU)
    known = [words for words, _ in base.card.known_answers]
    made = []
    for turn in range(VARIANTS):
        network = copy.deepcopy(base.network)
        for tensor in (network.output.weight, network.output.bias):
            tensor[1:] = torch.roll(tensor[1:], 4 * turn, 0)  # the tags of one label are four
        path = folder / f"variant{turn}"
        write(path, rounded(base.card, base.vocabulary, network, CPU), known)
        made.append(path.read_bytes())
        path.unlink()
    return made


def p99_ms(calls: Sequence[tuple[float, float]]) -> float:
    times = sorted(end - began for began, end in calls)
    return 1000 * times[len(times) * 99 // 100]


async def test_swaps(tmp_path: Path, sentences: list[list[str]], figure: Figure) -> None:
    """One reply, one version, named."""
    files = variants(tmp_path)
    said = []
    for number, data in enumerate(files):
        tagger = NativeTagger(load(place(tmp_path / f"{number}", 1, data), CPU), 1, "float32")
        said.append([spans(answer.entities) for answer in tagger.tag(sentences, [None] * len(sentences))])
    telling = [row for row in range(len(sentences)) if len({answers[row] for answers in said}) == VARIANTS]
    groups = [telling[first : first + 16] for first in range(0, 320, 16)]
    folder = tmp_path / "en"
    place(folder, 1, files[1])
    swaps: list[tuple[float, float]] = []
    # Small batches, so that a swap falls into many a request.
    options = ["--precision", "float32", "--reload-poll-s", "0.2", "--max-batch-sentences", "8"]
    with serving(tmp_path / "log", folder, options) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            callers = Callers(channel, [asked([sentences[row] for row in rows]) for rows in groups])
            running = asyncio.create_task(callers.run())
            seen = callers.seen
            await asyncio.sleep(STEADY_S)
            first = time.perf_counter()
            for number in range(2, SWAPS + 2):
                began = time.perf_counter()
                path = place(folder, number, files[number % VARIANTS])
                await callers.served_by(path)
                swaps.append((began, time.perf_counter()))
                await asyncio.wait([running], timeout=max(began + PERIOD_S - time.perf_counter(), 0))
            took_s = time.perf_counter() - first
            callers.stop.set()
            await running
    references = {
        f"en/{number:06}": [[said[number % VARIANTS][row] for row in rows] for rows in groups]
        for number in range(1, SWAPS + 2)
    }
    mixed = sum(answers != references[version][number] for number, version, answers in seen.answers)
    during = [call for call in seen.calls if any(call[1] > began and call[0] < end for began, end in swaps)]
    steady = [call for call in seen.calls if call[1] < first]
    figure(
        f"{SWAPS} swaps in {took_s:.0f} s under {2 * CALLERS} callers: of {seen.asked:,} replies "
        f"lost {seen.asked - len(seen.answers)}, errors {len(seen.errors)}, mixed {mixed}; "
        f"p99 in a swap {p99_ms(during):.1f} ms / steady {p99_ms(steady):.1f} ms = "
        f"{p99_ms(during) / p99_ms(steady):.1f}"
    )
    assert seen.errors == []
    assert (seen.asked - len(seen.answers), mixed) == (0, 0)
    assert {version for _, version, _ in seen.answers} == set(references)


async def test_cost_of_swaps(tmp_path: Path, make_model: MakeModel, figure: Figure) -> None:
    """Reloads cost nothing lasting."""
    files = []
    for seed in (1, 2):
        write(tmp_path / "tiny", make_model(seed, words=WORDS, hidden=100), [WORDS])  # of which one kept would show
        files.append((tmp_path / "tiny").read_bytes())
    folder = tmp_path / "en"
    place(folder, 1, files[1])
    measures: list[tuple[int, int, int]] = []
    began = time.perf_counter()
    with serving(tmp_path / "log", folder, ["--reload-poll-s", "0.2"]) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            callers = Callers(channel, [asked([WORDS])])
            running = asyncio.create_task(callers.run())
            for number in range(2, TINY_SWAPS + 2):
                path = place(folder, number, files[number % 2])
                await callers.served_by(path)
                if number > SETTLED:
                    measures.append((number, server.rss(), server.descriptors()))
            took_s = time.perf_counter() - began
            callers.stop.set()
            await running
    swaps, rss, descriptors = zip(*measures, strict=True)
    slope = statistics.linear_regression(swaps, rss).slope
    growth = statistics.linear_regression(swaps, descriptors).slope
    figure(
        f"{TINY_SWAPS} swaps in {took_s:.0f} s: after the first {SETTLED} {slope / 1024:+.1f} KiB a swap "
        f"at {rss[-1] / 2**20:.0f} MiB, {growth:+.3f} descriptors a swap at {descriptors[-1]}"
    )
    assert callers.seen.errors == []
    assert slope < 64 * 1024
    assert growth < 0.02


def resealed(good: bytes, spoil: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> bytes:
    """A checkpoint whose tensors or card were changed and whose checksum is right all the same."""
    tensors = safetensors.torch.load(good)
    size = int.from_bytes(good[:8], "little")
    card = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["nerstream"])
    spoil(tensors, card)
    description = json.dumps(card)
    return safetensors.torch.save(tensors, {"nerstream": description, "sha256": tensors_sha256(tensors, description)})


def flipped(good: bytes, at: int) -> bytes:
    return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]


def not_a_number(tensors: dict[str, torch.Tensor], _: object) -> None:
    tensors["output.weight"][0, 0] = torch.nan


def infinite(tensors: dict[str, torch.Tensor], _: object) -> None:
    tensors["output.bias"][0] = torch.inf


def wrong_shape(tensors: dict[str, torch.Tensor], _: object) -> None:
    tensors["output.weight"] = tensors["output.weight"][:, 1:].contiguous()


def tensor_missing(tensors: dict[str, torch.Tensor], _: object) -> None:
    del tensors["output.bias"]


def labels_fewer(_: object, card: dict[str, Any]) -> None:
    card["tags"] = card["tags"][:-2]


def labels_disordered(_: object, card: dict[str, Any]) -> None:
    card["tags"] = card["tags"][::-1]


def labels_renamed(_: object, card: dict[str, Any]) -> None:
    card["tags"] = [tag.replace("PER", "PERSON") for tag in card["tags"]]


def other_answers(_: object, card: dict[str, Any]) -> None:
    card["known_answers"] = [[words, ["O"] * len(words)] for words, _ in card["known_answers"]]


def huge(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.truncate(path, 1 << 40)


def not_for_us(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0)


def write_bad(make: Callable[[bytes], bytes]) -> Callable[[Path, bytes], object]:
    return lambda path, good: place(path.parent, int(path.stem), make(good))


# What makes a bad checkpoint at a path, given the bytes of a good one, and what the log has to say of it.
BAD: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "truncated": (write_bad(lambda good: good[:-10]), "not a whole safetensors file"),
    "truncated in its header": (write_bad(lambda good: good[:100]), "not a whole safetensors file"),
    "with more at its end": (write_bad(lambda good: good + b"more"), "not a whole safetensors file"),
    "a bit of its data flipped": (write_bad(lambda good: flipped(good, len(good) - 50)), "SHA-256"),
    "a bit of its card flipped": (write_bad(lambda good: flipped(good, good.index(b"dev_f1"))), "SHA-256"),
    "a bit of its header's length flipped": (write_bad(lambda good: flipped(good, 1)), "not a whole"),
    "NaN": (write_bad(lambda good: resealed(good, not_a_number)), "not finite"),
    "infinite": (write_bad(lambda good: resealed(good, infinite)), "not finite"),
    "wrong shape": (write_bad(lambda good: resealed(good, wrong_shape)), "has shape"),
    "a tensor missing": (write_bad(lambda good: resealed(good, tensor_missing)), "output.bias"),
    "labels fewer": (write_bad(lambda good: resealed(good, labels_fewer)), "has shape"),
    "labels disordered": (write_bad(lambda good: resealed(good, labels_disordered)), "tag table"),
    "labels renamed": (write_bad(lambda good: resealed(good, labels_renamed)), "answers it was published with"),
    "other answers": (write_bad(lambda good: resealed(good, other_answers)), "answers it was published with"),
    "foreign": (write_bad(lambda _: safetensors.torch.save({"w": torch.ones(3)})), "not a nerstream checkpoint"),
    "a pickle": (write_bad(lambda _: pickle.dumps({"weights": [1.0] * 100})), "not a whole safetensors file"),
    "empty": (write_bad(lambda _: b""), "not a whole safetensors file"),
    "a header of 2^62 bytes": (write_bad(lambda good: (1 << 62).to_bytes(8, "little") + good[8:]), "not a whole"),
    "huge and sparse": (lambda path, _: huge(path, b""), "more than a checkpoint may"),
    "huge and sparse behind a good one": (huge, "more than a checkpoint may"),
    "a folder": (lambda path, _: path.mkdir(), "not a checkpoint file"),
    "a FIFO": (lambda path, _: os.mkfifo(path), "not a checkpoint file"),
    "a link to nothing": (lambda path, _: path.symlink_to("/nowhere/at/all"), "No such file"),
    "a link to itself": (lambda path, _: path.symlink_to(path.name), "symbolic links"),
    "a link to a device": (lambda path, _: path.symlink_to("/dev/zero"), "not a checkpoint file"),
    "a link to another file": (lambda path, _: path.symlink_to("/etc/passwd"), "not a whole safetensors file"),
    "unreadable": (lambda path, _: path.symlink_to("/proc/self/mem"), "Input/output error"),
}
if os.geteuid() != 0:  # who may read anything
    BAD["not for us"] = (not_for_us, "Permission denied")


async def test_bad_checkpoints(tmp_path: Path, make_model: MakeModel, figure: Figure) -> None:
    """A bad checkpoint never unseats a good one."""
    known = [WORDS, WORDS[::-1], ("Ada", "met", "Babbage", "in", "London")]
    write(tmp_path / "tiny", make_model(1, words=WORDS), known)
    good = (tmp_path / "tiny").read_bytes()
    folder = tmp_path / "en"
    place(folder, 1, good)
    with serving(tmp_path / "log", folder, ["--reload-poll-s", "0.1"]) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            callers = Callers(channel, [asked([WORDS])])
            running = asyncio.create_task(callers.run())
            rss = server.rss()
            named = {}
            for number, (kind, (make, _)) in enumerate(BAD.items(), 2):
                path = folder / f"{number:06}.safetensors"
                make(path, good)
                await until(partial(lines, server, path), 10)
                named[kind] = path
            rss = server.rss() - rss
            slow = await written_slowly(server, folder / f"{len(BAD) + 2:06}.safetensors", good, callers)
            callers.stop.set()
            await running
        log = server.log.read_text()
        wrong = {
            kind: lines(server, path)
            for kind, path in named.items()
            if len(lines(server, path)) != 1 or BAD[kind][1] not in lines(server, path)[0]
        }
    served = {version for _, version, _ in callers.seen.answers}
    figure(
        f"{len(BAD) + 1} kinds refused, {len(BAD) - len(wrong)} of {len(BAD)} named once with their cause; one written "
        f"slowly in its place named {slow} times, then served; of {callers.seen.asked:,} requests "
        f"{len(callers.seen.errors)} failed; {rss / 2**20:+.0f} MiB"
    )
    assert wrong == {}
    assert callers.seen.errors == []
    assert served == {"en/000001", f"en/{len(BAD) + 2:06}"}
    assert "Traceback" not in log
    assert rss < 200 << 20


def lines(server: Serving, path: Path) -> list[str]:
    """What the log says of a file."""
    return [line for line in server.log.read_text().splitlines() if path.name in line]


async def written_slowly(server: Serving, path: Path, good: bytes, callers: Callers) -> int:
    """Write a good checkpoint in its place bit by bit until it serves; how often it was refused."""
    cuts = [len(good) * part // 10 for part in range(11)]
    with path.open("wb", buffering=0) as file:
        for start, end in pairwise(cuts):
            file.write(good[start:end])
            await asyncio.sleep(0.2)  # as slow as a writer may be
    await callers.served_by(path)
    return sum("refused" in line for line in lines(server, path))
