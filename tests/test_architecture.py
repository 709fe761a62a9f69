"""Who may import whom."""

import ast
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import MakeModel, publish

from nermodel.checkpoint import load
from nerserver.engine import tagger_for, warm_up

ROOT = Path(__file__).parents[1]
OURS = {"ner", "nermodel", "nerserver", "nerclient", "nertrainer"}
FOLDERS = {
    "protos/ner": set[str](),
    "model/nermodel": set[str](),
    "server/nerserver": {"ner", "nermodel"},
    "client/nerclient": {"ner"},
    "trainer/nertrainer": {"nermodel"},
}
# Modules and functions that can run code that is in a file.
CODE = (
    *("pickle", "_pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle", "yaml", "runpy", "importlib"),
    *("torch.load", "torch.jit", "torch.hub", "torch.package", "numpy.load", "numpy.lib.format"),
    *("eval", "exec", "compile", "__import__"),
)
BETWEEN_PROCESSES = {"nerserver.workers", "nerserver.life"}
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


def names(tree: ast.AST) -> Iterator[str]:
    """What a module imports and refers to, by full names: `np.load` as numpy.load, a built-in as it is."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                known[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        first: ast.AST = node
        rest = ""
        while isinstance(first, ast.Attribute):
            rest = f".{first.attr}{rest}"
            first = first.value
        if isinstance(first, ast.Name):
            yield known.get(first.id, first.id) + rest


def source(module: str) -> Path | None:
    """The file of one of our modules; None of what is no module, such as a function in one."""
    for folder in FOLDERS:
        place = (ROOT / folder).parent.joinpath(*module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.exists():
                return path
    return None


def reachable(start: str) -> dict[str, ast.AST]:
    """Our modules that a module imports, the indirect ones and those in functions too."""
    found: dict[str, ast.AST] = {}
    left = [start]
    while left:
        module = left.pop()
        path = source(module)
        if path is None or module in found:
            continue
        found[module] = ast.parse(path.read_text(encoding="utf-8"))
        for name in set(names(found[module])):
            parts = name.split(".")
            if parts[0] in OURS:
                left += [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return found


def runs_code(name: str) -> bool:
    """Whether a name is of what can run code that is in a file."""
    return any(name == each or name.startswith(f"{each}.") for each in CODE)


def test_nothing_on_the_serve_path_can_run_code_from_a_file() -> None:
    """No pickle and the like in any of our modules that the server's command reaches."""
    modules = reachable("nerserver.__main__")
    assert {"nerserver.workers", "nerserver.reload", "nermodel.checkpoint", "ner.v1.tagger_pb2"} <= modules.keys()
    assert not {name.split(".")[0] for name in modules} & {"nerclient", "nertrainer"}
    for module, tree in modules.items():
        for name in names(tree):
            assert not runs_code(name), f"{module} uses {name}"
            if name.startswith("multiprocessing"):  # pickles, between processes of ours
                assert module in BETWEEN_PROCESSES, f"{module} uses {name}"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import torch as t\nt.load(path)",
        "from torch import jit\njit.load(path)",
        "from numpy import load as read\nread(path)",
        "import yaml\nyaml.load(file)",
        "eval(text)",
    ],
)
def test_code_is_found(code: str) -> None:
    """What the test above looks for is found under whatever name."""
    assert any(map(runs_code, names(ast.parse(code))))
    assert not any(map(runs_code, names(ast.parse("import re, torch\nre.compile(x)\ntorch.loads"))))


def test_the_server_unpickles_nothing(make_model: MakeModel, tmp_path: Path) -> None:
    """Neither does what we import: no pickle names a class while a model is loaded, warmed up and tags."""
    heard: list[str] | None = []

    def hook(event: str, _: object) -> None:
        if heard is not None and event.startswith("pickle."):
            heard.append(event)

    path = publish(tmp_path, make_model(), [("Mary", "said")])
    sys.addaudithook(hook)  # for good
    try:
        warm_up(tagger_for(load(path, torch.device("cpu")), 1, "auto"))
        assert heard == []
        pickle.loads(pickle.dumps(OSError))
        assert heard == ["pickle.find_class"]
    finally:
        heard = None


def test_the_client_needs_neither_torch_nor_numpy() -> None:
    """Importing the client and its command loads nothing of the server's or the trainer's."""
    code = (
        "import sys, nerclient.cli, nerclient.sync, nerclient.tagging; "
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("torch", "numpy", "nermodel", "nerserver", "nertrainer", "seqeval"):
        assert f"'{name}'" not in loaded


def test_a_server_loads_a_model_without_torchs_compiler() -> None:
    """Loading and warming up a model does not import it, which would take a second."""
    code = (
        "import sys, torch, nerserver.life; from nermodel import DEFAULT; from nermodel.checkpoint import load; "
        "from nerserver.engine import tagger_for, warm_up; warm_up(tagger_for(load(DEFAULT, torch.device('cpu')), 1)); "
        "print([name for name in ('torch._dynamo', 'sympy', 'triton') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
