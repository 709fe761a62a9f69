"""Settings from the command line, the environment and a TOML file, each before the next.

A number out of range is told back by the server, and so shows which one it took.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from nerserver.cli import main

Say = Callable[..., str]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    """What the command says, in one line, to a config file, an environment and options."""

    def run(config: str | bytes = "", *options: str, **environment: str) -> str:
        file = tmp_path / "server.toml"
        file.write_bytes(config if isinstance(config, bytes) else config.encode())
        for name, value in {"NERSERVER_CONFIG": str(file), **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["nerserver", *options])
        with pytest.raises(SystemExit) as stop:
            main()
        error = capsys.readouterr().err
        assert stop.value.code in (1, 2)
        assert error.startswith("nerserver: ")
        assert error.count("\n") == 1
        return error.replace(str(file), "FILE")

    return run


def test_the_nearest_wins(say: Say) -> None:
    """The command line goes before the environment, that before the file, and the file before the default."""
    file = "threads = 2001\nmax-inputs = 5\nreflection = true\n"
    assert "threads is 2001," in say(file)
    assert "threads is 2002," in say(file, NERSERVER_THREADS="2002")
    assert "threads is 2003," in say(file, "--threads", "2003")


def test_another_file(say: Say, tmp_path: Path) -> None:
    """--config goes before NERSERVER_CONFIG, and a file that is not there is named."""
    (tmp_path / "other.toml").write_text("workers = 2004")
    assert "workers is 2004," in say("workers = 2005", "--config", str(tmp_path / "other.toml"))
    assert "none.toml: No such file or directory" in say("", "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("max_input = 3", "FILE: unknown key max_input; did you mean max_inputs?"),
        ("[server]\nthreads = 1", "FILE: unknown key server; see"),
        ("config = 'x'", "FILE: unknown key config; see"),
        ("k" * 100_000 + " = 1", "FILE: unknown key " + "k" * 60 + "…; see"),
        ("model = " + "[" * 100_000 + "]" * 100_000, "FILE: not TOML that can be read"),
        ("threads = " + "9" * 5000, "FILE: not TOML that can be read"),
        ("threads = true", "FILE: threads: expected one number or text, got bool"),
        ("threads = [1]", "FILE: threads: expected one number or text, got list"),
        ("insecure = 1", "FILE: insecure: expected true or false, got int"),
        ("threads = 'many'", "Invalid value for '--threads'"),
        ("threads", "FILE: not TOML"),
        (b"\xff", "FILE: not TOML"),
    ],
)
def test_a_wrong_file(say: Say, config: str | bytes, said: str) -> None:
    """What is wrong in the file is named with what was meant."""
    assert said in say(config)


def test_an_unknown_variable(say: Say) -> None:
    """A variable that means no option is refused, but for those that Kubernetes gives a service of our name."""
    said = say("threads = 2001", NERSERVER_PORT="tcp://10.0.0.1:1", NERSERVER_SERVICE_HOST="10.0.0.1")
    assert "threads is 2001," in said
    said = say("", NERSERVER_MAX_INPUT="3")
    assert "unknown key NERSERVER_MAX_INPUT; did you mean NERSERVER_MAX_INPUTS?" in said
