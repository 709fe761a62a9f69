"""Models small enough to make in a test."""

from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import pytest
import torch

from nermodel.checkpoint import Card, Model, next_version, rounded, write
from nermodel.network import Network, NetworkConfig
from nermodel.tags import Scheme, tag_table
from nermodel.vocabulary import Vocabulary

WORDS = ("the", "a", "of", "in", "and", "said", "was", "not", "left", "Mary", "Okafor", "Oslo", "Siemens", "Inc.")
MakeModel = Callable[..., Model]
FIGURES = pytest.StashKey[list[tuple[str, str]]]()
Figure = Callable[[str], None]
torch.set_num_threads(1)  # the models are too small for more
hypothesis.settings.register_profile("untimed", deadline=None)  # tests are not about how busy the machine is
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no figures."""
    config.stash[FIGURES] = []


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print every figure as a row of a table."""
    if figures := config.stash[FIGURES]:
        terminalreporter.section("figures")
        terminalreporter.line("| promise | figure |\n|---|---|")
        for promise, text in figures:
            terminalreporter.line(f"| {promise} | {text} |")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Note what a promise came to, to be printed at the end."""
    promise = request.function.__doc__.splitlines()[0].rstrip(".")
    return lambda text: request.config.stash[FIGURES].append((promise, text))


def publish(folder: Path, model: Model, known: Sequence[Sequence[str]]) -> Path:
    """Make the model the next version of a folder, through no gate."""
    folder.mkdir(parents=True, exist_ok=True)
    path = next_version(folder)
    write(path, model, known)
    return path


@pytest.fixture
def make_model() -> MakeModel:
    """Build a random model of the four labels, ready to tag or publish; another seed, other answers."""

    def make(
        seed: int = 1, scheme: Scheme = "BIO", layers: int = 1, words: Sequence[str] = WORDS, hidden: int = 10
    ) -> Model:
        torch.manual_seed(seed)
        vocabulary = Vocabulary.build([words], min_freq=1)
        config = NetworkConfig(word_dim=8, char_dim=4, char_filters=6, hidden=hidden, layers=layers)
        table = tag_table(("LOC", "MISC", "ORG", "PER"), scheme)
        network = Network(config, vocabulary, table).eval()
        with torch.no_grad():
            network.output.weight.mul_(20)  # apart enough that rounding decides no tag
        card = Card(table, config, {"dev_f1": 0.5}, {"seed": seed})
        return rounded(card, vocabulary, network, torch.device("cpu"))

    return make
