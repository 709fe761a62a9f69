"""The command in the test's own process, and some sentences to run it on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trainer.signalled import Ended

from nertrainer.cli import main

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
Command = Callable[..., Ended]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `nertrainer` with these arguments to its end."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["nertrainer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return Ended(int(stop.value.code or 0), *capsys.readouterr())

    return run


def write_sentences(path: Path, count: int) -> Path:
    """Put the first sentences of our corpus into a file."""
    parts = (CORPUS / "train.conll").read_text(encoding="utf-8").split("\n\n")
    path.write_text("\n\n".join(parts[:count]) + "\n", encoding="utf-8")
    return path
