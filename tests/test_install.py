"""What a user gets from a built wheel."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from nermodel import DEFAULT

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    (path,) = folder.glob("nerstream-*.whl")
    return path


def test_the_wheel_holds_the_model_and_the_contract(wheel: Path) -> None:
    """The five packages, the embedded model with its card, and the proto are inside, and no tests."""
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "ner/v1/tagger.proto",
        "ner/v1/tagger_pb2.py",
        f"nermodel/en/{DEFAULT.name}",
        "nermodel/en/README.md",
        "nerserver/server.py",
        "nerclient/cli.py",
        "nertrainer/cli.py",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests", "server/", "client/", "examples"))]


def test_the_base_install_is_the_client_alone(wheel: Path, tmp_path: Path) -> None:
    """Without extras `nerclient` runs, and neither torch nor numpy is installed."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "grpcio" in listed
    assert not {"torch", "numpy", "seqeval", "safetensors"} & set(listed.split())
    done = subprocess.run(
        [tmp_path / "bin" / "nerclient", "tag", "-", "--address", "127.0.0.1:1"],
        input="Mary left Oslo.\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("nerclient: ")
    assert done.stderr.count("\n") == 1
