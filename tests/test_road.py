"""The whole road with real processes: trainer, server, client."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from tests.conftest import WORDS, MakeModel, publish

from nerclient import Entity, SyncClient
from nermodel import DEFAULT
from nermodel.checkpoint import Model
from nermodel.tags import tags_to_spans

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # the models are too small for more
CORPUS = Path(__file__).parents[1] / "examples" / "corpus"
Serve = Callable[..., str]


def command(name: str, *arguments: object) -> list[str]:
    """A console command of the environment that runs the tests."""
    return [str(Path(sys.executable).with_name(name)), *map(str, arguments)]


def nerclient(address: str, *arguments: object, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the client to its end."""
    line = command("nerclient", *arguments, "--address", address)
    return subprocess.run(line, input=text, capture_output=True, text=True, check=False, timeout=50)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers on free ports; stop them with SIGTERM, which must end them well."""
    servers: list[subprocess.Popen[str]] = []

    def start(*options: object) -> str:
        line = command("nerserver", "--address", "127.0.0.1:0", *options)
        server = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
        servers.append(server)
        assert server.stdout is not None
        return server.stdout.readline().split()[-1]

    yield start
    for server in servers:
        server.terminate()
    for server in servers:
        server.communicate(timeout=20)
    assert [server.returncode for server in servers] == [0] * len(servers)


def entities(model: Model, words: tuple[str, ...]) -> tuple[Entity, ...]:
    """What a model says of one sentence, in process."""
    spans = tags_to_spans(model.tags[tag] for tag in model.tag([words])[0])
    return tuple(Entity(start, end, label, " ".join(words[start:end])) for start, end, label in spans)


def test_three_versions_are_published_under_a_stream(make_model: MakeModel, tmp_path: Path, serve: Serve) -> None:
    """No input is lost, every reply is wholly that of the version it names, and each version is taken in its turn."""
    folder = tmp_path / "demo"
    models = [make_model(seed) for seed in (1, 2, 3, 4)]
    publish(folder, models[0], [WORDS])
    sentences = [tuple(WORDS[at:] + WORDS[:at]) for at in range(len(WORDS))]
    expected = {
        f"demo/{number:06}": {words: entities(model, words) for words in sentences}
        for number, model in enumerate(models, 1)
    }
    assert len({str(answers) for answers in expected.values()}) == 4
    seen: list[str] = []

    def source() -> Iterator[tuple[str, ...]]:
        for words in cycle(sentences):
            if len(seen) == 4:
                return
            yield words

    count = 0
    with SyncClient(serve("--model", folder)) as client:
        for words, result in zip(cycle(sentences), client.stream(source(), window=64), strict=False):
            assert result.error is None
            assert result.input == words
            assert result.entities == expected[result.model_version][words]
            if result.model_version not in seen:
                seen.append(result.model_version)
                if len(seen) < 4:
                    publish(folder, models[len(seen)], [WORDS])
            count += 1
    assert seen == sorted(expected)
    assert count >= 4


def test_what_the_trainer_publishes_the_running_server_takes(
    make_model: MakeModel, tmp_path: Path, serve: Serve
) -> None:
    """`nertrainer train` into the folder of a running server ends with the server on that version."""
    folder = tmp_path / "demo"
    publish(folder, make_model(), [WORDS])
    address = serve("--model", folder)
    part = CORPUS / "dev.conll"
    data = tmp_path / "data.conll"
    data.write_text("\n\n".join(part.read_text(encoding="utf-8").split("\n\n")[:60]) + "\n", encoding="utf-8")
    options = [
        "--train",
        data,
        "--dev",
        data,
        "--output",
        folder,
        "--epochs",
        "1",
        "--hidden",
        "10",
        "--run",
        tmp_path / "run",
    ]
    trained = subprocess.run(
        command("nertrainer", "train", *options), capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.strip().endswith("000002.safetensors")
    with SyncClient(address) as client:
        versions = (result.model_version for result in client.stream(cycle(["Mary left Oslo."]), window=1))
        assert next(version for version in versions if version != "demo/000001") == "demo/000002"


def test_batching_changes_no_answer(tmp_path: Path, serve: Serve) -> None:
    """The corpus as text gives the same lines at a batch budget of one sentence and at the default."""
    lines = (CORPUS / "dev.conll").read_text(encoding="utf-8").split("\n")
    texts = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    outputs = []
    for options in ([], ["--max-batch-sentences", "1"]):
        done = nerclient(serve(*options), "tag", file, "--format", "jsonl")
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    answers = [json.loads(line) for line in outputs[0].splitlines()]
    assert [answer["text"] for answer in answers] == texts
    for answer in answers:
        for entity in answer["entities"]:
            assert answer["text"][entity["start"] : entity["end"]] == entity["text"]


def test_a_line_beyond_the_limits_costs_its_neighbours_nothing(serve: Serve) -> None:
    """A line of 100,000 words without an end is refused by the limit's name; the lines around it are tagged."""
    text = f"Apple Inc. was founded by Steve Jobs in California\n{'word ' * 100_000}\n\nSteve Jobs left Apple Inc.\n"
    done = nerclient(serve(), "tag", "-", text=text)
    assert done.returncode != 0
    first, refused, empty, last = done.stdout.split("\n")[:4]
    assert first == "[Apple Inc. ORG] was founded by [Steve Jobs PER] in [California LOC]"
    assert (refused, empty) == ("", "")
    assert "[Steve Jobs PER]" in last
    assert "max_sentence_tokens" in done.stderr
    assert "Traceback" not in done.stderr
    assert DEFAULT.stem in nerclient(serve(), "model").stdout
