"""Who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"ner", "nermodel", "nerserver", "nerclient", "nertrainer"}
FOLDERS = {
    "protos/ner": set[str](),
    "model/nermodel": set[str](),
    "server/nerserver": {"ner", "nermodel"},
    "client/nerclient": {"ner"},
    "trainer/nertrainer": {"nermodel"},
}
FOREIGN = {
    "protos/ner": {"torch", "numpy"},
    "model/nermodel": {"grpc"},
    "server/nerserver": {"pickle"},
    "client/nerclient": {"torch", "numpy"},
    "trainer/nertrainer": {"grpc"},
}


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    """Top-level names of every module that a folder's files import, wherever in the file."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module.split(".")[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_storeys_do_not_see_each_other(folder: str) -> None:
    """Each package imports only the floors below it, and never what it must do without."""
    allowed = FOLDERS[folder] | {Path(folder).name}
    found = list(imports(folder))
    assert found
    for path, name in found:
        assert name not in OURS - allowed, f"{path} imports {name}"
        assert name not in FOREIGN[folder], f"{path} imports {name}"


@pytest.mark.parametrize("folder", ["model/nermodel", "server/nerserver"])
def test_nothing_on_the_serve_path_can_run_code_from_a_file(folder: str) -> None:
    """No pickle, torch.load, eval or exec in what a server runs."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"torch.load", "torch.jit.load", "pickle.load", "pickle.loads"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path


def test_the_client_needs_neither_torch_nor_numpy() -> None:
    """Importing the client and its command loads nothing of the server's or the trainer's."""
    code = (
        "import sys, nerclient.cli, nerclient.sync, nerclient.tagging; "
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("torch", "numpy", "nermodel", "nerserver", "nertrainer", "seqeval"):
        assert f"'{name}'" not in loaded
