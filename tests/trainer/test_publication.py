"""Publication: what the gates let into a model's folder, and what lies there afterwards."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.conftest import WORDS, MakeModel, publish
from tests.trainer.conftest import Command

from nermodel.checkpoint import Card, Model, load, rounded, tensors_sha256, versions, write
from nermodel.network import Network, NetworkConfig
from nermodel.tags import tag_table
from nermodel.vocabulary import Vocabulary
from nertrainer.evaluation import evaluate
from nertrainer.publication import publish_gated
from nertrainer.reading import read_corpus
from nertrainer.run import Run, sha256

CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # the models are too small for more
SENTENCES = [tuple(WORDS[at:] + WORDS[:at]) for at in range(len(WORDS))]
DEV = [{"file": "dev.conll", "sha256": "d" * 64, "sentences": 14}]


def tagger(*labels: str) -> Model:
    """A model of these labels."""
    torch.manual_seed(1)
    vocabulary = Vocabulary.build([WORDS], min_freq=1)
    config = NetworkConfig(word_dim=8, char_dim=4, char_filters=6, hidden=10)
    table = tag_table(labels, "BIO")
    return of(rounded(Card(table, config, {}, {}), vocabulary, Network(config, vocabulary, table).eval(), CPU))


def of(model: Model, f1: float = 0.5, **provenance: Any) -> Model:
    """The model with a card of this dev F1."""
    return replace(model, card=replace(model.card, metrics={"dev_f1": f1}, provenance={"dev": DEV, **provenance}))


def file(path: Path, model: Model, known: Sequence[Sequence[str]] = SENTENCES[:2]) -> Path:
    """A checkpoint outside of any model's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, model, known)
    return path


def attempt(candidate: Path, folder: Path, **options: Any) -> tuple[Path, str]:
    """Publish, and all that was said."""
    said: list[str] = []
    path = publish_gated(candidate, folder, **{"say": said.append, "device": CPU, **options})
    return path, "\n".join(said)


def refusal(candidate: Path, folder: Path, **options: Any) -> str:
    """Why a candidate is refused, which leaves the folder as it was."""
    before = sorted(folder.iterdir()) if folder.is_dir() else []
    with pytest.raises(ValueError, match=re.escape(candidate.name)) as refused:
        attempt(candidate, folder, **options)
    assert (sorted(folder.iterdir()) if folder.is_dir() else []) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a checkpoint's tensors and sign it anew, as a faulty trainer would."""
    data = path.read_bytes()
    description = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["nerstream"]
    tensors = safetensors.torch.load(data)
    change(tensors)
    metadata = {"nerstream": description, "sha256": tensors_sha256(tensors, description)}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def columns(path: Path, model: Model) -> Path:
    """A corpus on which this model is always right."""
    rows = zip(SENTENCES, model.tag(SENTENCES), strict=True)
    text = ["".join(f"{word} {model.tags[tag]}\n" for word, tag in zip(*row, strict=True)) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text))
    return path


def run_of(folder: Path, model: Model, dev: Path, **facts: Any) -> Path:
    """A run's folder whose best checkpoint was chosen by this dev file."""
    with Run.create(folder, {"dev": [str(dev)]}, {str(dev.absolute()): sha256(dev)}) as run:
        origin = {"file": dev.name, "sha256": sha256(dev), "sentences": len(SENTENCES)}
        run.keep(of(model, dev=[origin], **facts), SENTENCES[:2])
    return folder


def test_the_first_version_is_the_runs_best_file_byte_for_byte(make_model: MakeModel, tmp_path: Path) -> None:
    """A folder is made where there is none; what was verified is what lies there, and it serves."""
    run = run_of(tmp_path / "run", make_model(), columns(tmp_path / "dev.conll", make_model()))
    path, said = attempt(run, tmp_path / "models" / "demo")
    assert path == tmp_path / "models" / "demo" / "000001.safetensors"
    assert path.read_bytes() == (run / "best.safetensors").read_bytes()
    assert load(path, CPU).version == "demo/000001"
    assert "no version to compare with" in said
    assert sorted(each.name for each in path.parent.iterdir()) == [
        ".000001.taken",
        "000001.md",
        "000001.safetensors",
    ]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (_flip, "the SHA-256 does not match"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "not a whole safetensors file"),
        (lambda path: rewrite(path, lambda tensors: tensors["output.bias"].fill_(torch.nan)), "not finite"),
        (lambda path: rewrite(path, lambda tensors: tensors["output.weight"].mul_(-1)), "does not reproduce"),
    ],
    ids=["tampered", "cut", "nan", "other answers"],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_no_server_takes_is_refused_also_by_force(
    make_model: MakeModel, tmp_path: Path, damage: Callable[[Path], None], cause: str, force: bool
) -> None:
    """Damage, weights that are not finite and other answers than the known ones are past forcing."""
    candidate = file(tmp_path / "new.safetensors", make_model())
    damage(candidate)
    assert cause in refusal(candidate, tmp_path / "demo", force=force)
    assert not (tmp_path / "demo").exists()


def test_without_known_answers_it_is_refused_unless_forced(make_model: MakeModel, tmp_path: Path) -> None:
    """A card without known answers proves nothing to a server."""
    candidate = file(tmp_path / "new.safetensors", make_model(), known=[()])
    assert "no known answers" in refusal(candidate, tmp_path / "demo")
    path, said = attempt(candidate, tmp_path / "demo", force=True)
    assert "warning: --force overrides that it has no known answers" in said
    assert "overridden by --force: it has no known answers" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("live", "new", "margin", "passes"),
    [
        (0.8, 0.795, 0.5, True),  # 0.5000000000000004 in floats
        (0.8, 0.7949, 0.5, False),
        (0.8, 0.8, 0.0, True),
        (0.8, 0.7999, 0.0, False),
        (0.8, 0.6, 20.0, True),
        (0.8, 0.9, 0.0, True),
    ],
)
def test_dev_f1_may_fall_by_the_margin(
    make_model: MakeModel, tmp_path: Path, live: float, new: float, margin: float, passes: bool
) -> None:
    """Cards that name the same dev files are compared: at the margin is well, beyond it is refused."""
    publish(tmp_path / "demo", of(make_model(1), live), SENTENCES[:2])
    candidate = file(tmp_path / "new.safetensors", of(make_model(2), new))
    figures = f"{100 * new:.2f} against {100 * live:.2f} of demo/000001 by their cards, on the same dev files"
    if passes:
        path, said = attempt(candidate, tmp_path / "demo", margin=margin)
        assert path.stem == "000002"
        assert f"dev F1: {figures}" in said
        return
    assert f"--margin {margin:g}: {figures}" in refusal(candidate, tmp_path / "demo", margin=margin)
    path, said = attempt(candidate, tmp_path / "demo", margin=margin, force=True)
    assert path.stem == "000002"
    assert f"warning: --force overrides that its dev F1 falls by more than --margin {margin:g}: {figures}" in said


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_is_a_finite_number_of_points(make_model: MakeModel, tmp_path: Path, margin: float) -> None:
    """A margin that would let nothing or all through is refused."""
    candidate = file(tmp_path / "new.safetensors", make_model())
    with pytest.raises(ValueError, match="expected F1 points, 0 or more"):
        attempt(candidate, tmp_path / "demo", margin=margin)


def test_other_dev_files_are_measured_with_both(make_model: MakeModel, tmp_path: Path) -> None:
    """Where the cards name other dev files, the live version is measured on the run's: 100 here, whatever cards say."""
    live, new = make_model(1), make_model(2)
    publish(tmp_path / "demo", of(live, 0.1), SENTENCES[:2])
    dev = columns(tmp_path / "data" / "dev.conll", live)
    f1 = 100 * evaluate(new, read_corpus(dev).sentences).overall.f1
    assert f1 < 99
    said = refusal(run_of(tmp_path / "run", new, dev) / "best.safetensors", tmp_path / "demo")
    assert f"{f1:.2f} against 100.00 of demo/000001, both measured on data/dev.conll" in said
    better = columns(tmp_path / "better.conll", new)
    path, said = attempt(run_of(tmp_path / "other", new, better), tmp_path / "demo")
    assert path.stem == "000002"
    assert "dev F1: 100.00 against " in said


def test_a_label_map_makes_the_same_file_another(make_model: MakeModel, tmp_path: Path) -> None:
    """Cards of one dev file whose labels were renamed otherwise are not compared; the run's own renaming counts."""
    live = make_model(1)
    dev = columns(tmp_path / "dev.conll", live)
    dev.write_text(dev.read_text().replace("-PER", "-person"))
    origin = [{"file": dev.name, "sha256": sha256(dev), "sentences": 14}]
    publish(tmp_path / "demo", of(live, 0.9, dev=origin, labels={}), SENTENCES[:2])
    run = run_of(tmp_path / "run", live, dev, labels={"person": "PER"})
    assert "100.00 against 100.00 of demo/000001, both measured" in attempt(run, tmp_path / "demo")[1]


def test_files_that_are_named_take_the_place_of_the_runs(make_model: MakeModel, tmp_path: Path) -> None:
    """With other corpora named both are measured on them, also where the cards could be compared."""
    live, new = make_model(1), make_model(2)
    publish(tmp_path / "demo", of(live, 0.9), SENTENCES[:2])
    candidate = file(tmp_path / "new.safetensors", of(new, 0.1))
    assert "by their cards" in refusal(candidate, tmp_path / "demo")
    corpus = read_corpus(columns(tmp_path / "own.conll", new))
    assert "100.00 against " in attempt(candidate, tmp_path / "demo", dev=[corpus])[1]


def _gone(run: Path, dev: Path) -> None:
    dev.unlink()


def _changed(run: Path, dev: Path) -> None:
    dev.write_text(dev.read_text() + "\nMary B-PER\n")


def _no_config(run: Path, dev: Path) -> None:
    (run / "config.toml").unlink()


def _empty_config(run: Path, dev: Path) -> None:
    (run / "config.toml").write_text("")


def _odd_config(run: Path, dev: Path) -> None:
    (run / "config.toml").write_text("dev = 3\n[sha256]")


def _odd_digests(run: Path, dev: Path) -> None:
    (run / "config.toml").write_text("dev = []\nsha256 = 'x'")


def _other_config(run: Path, dev: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace(f'dev = ["{dev}"]', f'dev = ["{dev}", "{dev}"]'))


@pytest.mark.parametrize(
    ("lose", "cause"),
    [
        (_gone, "dev.conll: No such file or directory"),
        (_changed, "dev.conll is not what it was chosen by, by the SHA-256 in"),
        (_no_config, "no config.toml beside it names its dev files"),
        (_empty_config, "config.toml does not name the dev files"),
        (_odd_config, "config.toml: dev: expected a list of files"),
        (_odd_digests, "config.toml: sha256: expected a table"),
        (_other_config, "the dev files that run/config.toml names are not those that it was chosen by"),
    ],
)
def test_what_cannot_be_compared_is_refused_unless_forced(
    make_model: MakeModel, tmp_path: Path, lose: Callable[[Path, Path], None], cause: str
) -> None:
    """Other dev files that are gone or changed leave nothing to compare on; the refusal says what to do."""
    publish(tmp_path / "demo", of(make_model(1)), SENTENCES[:2])
    dev = columns(tmp_path / "dev.conll", make_model(1))
    run = run_of(tmp_path / "run", make_model(2), dev)
    lose(run, dev)
    said = refusal(run / "best.safetensors", tmp_path / "demo")
    assert "dev F1 cannot be compared with that of demo/000001" in said
    assert cause in said.replace(f"{tmp_path}/", "")
    assert "--dev FILE" in said
    path, said = attempt(run, tmp_path / "demo", force=True)
    forced = "warning: --force overrides that its dev F1 cannot be compared with that of demo/000001:"
    (line,) = (line for line in said.replace(f"{tmp_path}/", "").split("\n") if line.startswith(forced))
    assert cause in line
    assert "| figure | F1 |" in path.with_suffix(".md").read_text()


def test_a_label_that_clients_may_rely_on_is_not_dropped(tmp_path: Path) -> None:
    """A candidate without labels of the live version is refused, which names them; new ones are welcome."""
    publish(tmp_path / "demo", tagger("LOC", "MISC", "ORG", "PER"), SENTENCES[:2])
    candidate = file(tmp_path / "new.safetensors", tagger("EVENT", "LOC", "ORG"))
    assert "lacks labels of demo/000001 that clients may rely on: MISC, PER" in refusal(candidate, tmp_path / "demo")
    path, said = attempt(candidate, tmp_path / "demo", force=True)
    assert "warning: --force overrides that it lacks labels of demo/000001" in said
    wider = file(tmp_path / "wider.safetensors", tagger("DATE", "EVENT", "LOC", "ORG"))
    assert "labels: all of demo/000002, and new DATE" in attempt(wider, path.parent)[1]


def test_the_newest_version_that_loads_is_the_one_to_beat(make_model: MakeModel, tmp_path: Path) -> None:
    """A damaged newest version is passed over, as a server does; where none loads, there is none to compare with."""
    good = publish(tmp_path / "demo", of(make_model(1), 0.8), SENTENCES[:2])
    _flip(publish(tmp_path / "demo", of(make_model(1), 0.1), SENTENCES[:2]))
    candidate = file(tmp_path / "new.safetensors", of(make_model(2), 0.6))
    assert "of demo/000001" in refusal(candidate, tmp_path / "demo")
    _flip(good)
    path, said = attempt(candidate, tmp_path / "demo")
    assert path.stem == "000003"
    assert said.count("warning: passed over") == 2


@pytest.mark.parametrize("left", [".*.taken", "*.md"])
def test_the_number_of_a_deleted_version_is_not_given_again(make_model: MakeModel, tmp_path: Path, left: str) -> None:
    """A server that served a number would not take another model under it; the card alone remembers it too."""
    candidate = file(tmp_path / "new.safetensors", of(make_model()))
    attempt(candidate, tmp_path / "demo")
    attempt(candidate, tmp_path / "demo")
    for path in set((tmp_path / "demo").iterdir()) - set((tmp_path / "demo").glob(left)):
        path.unlink()
    assert attempt(candidate, tmp_path / "demo")[0].stem == "000003"


LOOP = """
import sys
from pathlib import Path
import torch
from nertrainer.publication import publish_gated
candidate, folder = map(Path, sys.argv[1:])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    print(publish_gated(candidate, folder, say=lambda line: None, device=torch.device("cpu")))
"""


def test_two_publishers_at_once_share_no_number(make_model: MakeModel, tmp_path: Path) -> None:
    """Two processes that publish into one folder get a number each every time, and their own files under it."""
    candidates = [file(tmp_path / f"{seed}.safetensors", of(make_model(seed))) for seed in (1, 2)]
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", LOOP, candidate, tmp_path / "demo"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for candidate in candidates
    ]
    for publisher in publishers:
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.write("\n")
        publisher.stdin.flush()
    published = [publisher.communicate(timeout=40)[0].split() for publisher in publishers]
    assert [publisher.returncode for publisher in publishers] == [0, 0]
    assert sorted(published[0] + published[1]) == [str(path) for path in versions(tmp_path / "demo")]
    assert len(versions(tmp_path / "demo")) == 6
    for candidate, paths in zip(candidates, published, strict=True):
        for path in map(Path, paths):
            assert path.read_bytes() == candidate.read_bytes()
            assert path.with_suffix(".md").read_text().startswith(f"# demo/{path.stem}\n")


def test_a_version_that_comes_meanwhile_is_the_one_to_beat(make_model: MakeModel, tmp_path: Path) -> None:
    """What another process publishes while a candidate is at the gates is compared with too."""
    publish(tmp_path / "demo", of(make_model(1), 0.5), SENTENCES[:2])
    candidate = file(tmp_path / "new.safetensors", of(make_model(2), 0.5))

    def say(line: str) -> None:
        if line.startswith("labels:"):
            publish(tmp_path / "demo", of(make_model(3), 0.9), SENTENCES[:2])

    with pytest.raises(ValueError, match=r"50\.00 against 90\.00 of demo/000002"):
        attempt(candidate, tmp_path / "demo", say=say)
    assert len(versions(tmp_path / "demo")) == 2


def test_a_full_disk_leaves_nothing(make_model: MakeModel, tmp_path: Path) -> None:
    """A version that does not fit leaves neither a file that a reader could take nor a card; the next one fits."""
    candidate = file(tmp_path / "new.safetensors", of(make_model()))
    assert candidate.stat().st_size > 8000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as refused:
            attempt(candidate, tmp_path / "demo")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.filename == str(tmp_path / "demo" / "000001.safetensors")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [".000001.taken"]
    assert attempt(candidate, tmp_path / "demo")[0].stem == "000002"


def test_a_version_never_lacks_its_card(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is there before the model is; what breaks in before the model is there takes the card along."""
    candidate = file(tmp_path / "new.safetensors", of(make_model()))
    folder = tmp_path / "demo"
    link = Path.hardlink_to

    def before(path: Path, partial: Path) -> None:
        if path.suffix == ".safetensors":
            assert (folder / "000001.md").exists()
            raise KeyboardInterrupt
        link(path, partial)

    def after(path: Path, partial: Path) -> None:
        link(path, partial)
        if path.suffix == ".safetensors":
            raise KeyboardInterrupt

    def meanwhile(path: Path, partial: Path) -> None:
        if path.suffix == ".safetensors":
            path.write_text("another's")
        link(path, partial)

    for linking, error, left in (
        (before, KeyboardInterrupt, []),
        (after, KeyboardInterrupt, ["000002.md", "000002.safetensors"]),
        (meanwhile, FileExistsError, ["000003.safetensors"]),
    ):
        seen = set(folder.iterdir()) if folder.exists() else set()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "hardlink_to", linking)
            with pytest.raises(error):
                attempt(candidate, folder)
        assert sorted(path.name for path in set(folder.iterdir()) - seen if path.suffix != ".taken") == left


def test_of_several_seeds_the_best_is_published(make_model: MakeModel, tmp_path: Path) -> None:
    """The folder of a run with several seeds stands for that of its best seed."""
    file(tmp_path / "run" / "seed-1" / "best.safetensors", make_model(1))
    best = file(tmp_path / "run" / "seed-2" / "best.safetensors", make_model(2))
    (tmp_path / "run" / "seeds.json").write_text('{"best": 2}')
    assert attempt(tmp_path / "run", tmp_path / "demo")[0].read_bytes() == best.read_bytes()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"best": "../other"}', '{"best": true}'])
def test_a_damaged_summary_of_seeds_is_named(make_model: MakeModel, tmp_path: Path, text: str) -> None:
    """What names no seed leads nowhere, least of all out of the run's folder."""
    file(tmp_path / "other" / "best.safetensors", make_model())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "seeds.json").write_text(text)
    assert "seeds.json: does not name the best seed" in refusal(tmp_path / "run", tmp_path / "demo")


def test_the_card_tells_what_is_known(make_model: MakeModel, tmp_path: Path) -> None:
    """Figures as measured, data, recipe, gates, limits and how to measure again; no place is left to be filled."""
    live, new = make_model(1), make_model(2)
    publish(tmp_path / "demo", of(live, 0.9), SENTENCES[:2])
    origin = {"file": "a|b.conll", "sha256": "a" * 64, "sentences": 1400}
    recipe = {"optimizer": "adamw", "lr": 0.0015}
    facts = {
        "train": [origin],
        "vectors": [{"file": "glove.txt", "sha256": "ab12"}],
        "recipe": recipe,
        "epoch": 7,
        "labels": {"person": "PER"},
    }
    candidate = file(tmp_path / "new.safetensors", of(new, 0.625, **facts))
    corpus = read_corpus(columns(tmp_path / "data" / "dev.conll", live))
    path, _ = attempt(candidate, tmp_path / "demo", dev=[corpus], force=True)
    text = path.with_suffix(".md").read_text()
    lines = text.split("\n")
    assert lines[0] == "# demo/000002"
    assert f"`{load(path, CPU).sha256}`" in text
    result = evaluate(new, corpus.sentences)
    for name, scores in {**result.per_type, "all": result.overall}.items():
        figures = [f"{100 * figure:.2f}" for figure in (scores.precision, scores.recall, scores.f1)]
        assert f"| {name} | {' | '.join(figures)} | {scores.support} |" in lines
    assert "data/dev.conll, 14 sentences:" in lines
    assert "Mean F1 of its dev files, as training measured it: 62.50." in lines
    assert f"| training | a\\|b.conll | 1,400 | {'a' * 64} |" in lines
    assert f"| choosing the epoch | dev.conll | 14 | {'d' * 64} |" in lines
    for fact in ("optimizer: adamw", "lr: 0.0015", "vectors: glove.txt (SHA-256 ab12)", "epoch: 7", "hidden: 10"):
        assert f"- {fact}" in lines
    assert "- labels renamed: person=PER" in lines
    assert any(line.startswith("- overridden by --force: its dev F1 falls") for line in lines)
    assert "    nertrainer evaluate 000002.safetensors data/dev.conll --labels person=PER" in lines
    assert "None" not in text


def test_a_card_without_provenance_says_less(make_model: MakeModel, tmp_path: Path) -> None:
    """Of a checkpoint that tells nothing of its making, or tells it in another way, the card only says what it can."""
    odd = of(make_model(), dev="mine", train=[{"file": 3}], recipe="best", labels="A=B", note={"a": [1]})
    path, _ = attempt(file(tmp_path / "new.safetensors", odd), tmp_path / "demo")
    text = path.with_suffix(".md").read_text()
    assert "## Data" not in text
    assert '- note: {"a": \\[1\\]}' in text
    assert "| dev_f1 | 50.00 |" in text
    assert "    nertrainer evaluate 000001.safetensors FILE\n" in text


def test_the_command_prints_the_path_alone_on_stdout(make_model: MakeModel, tmp_path: Path, command: Command) -> None:
    """The story goes gate by gate to stderr."""
    dev = columns(tmp_path / "dev.conll", make_model())
    run = run_of(tmp_path / "run", make_model(), dev)
    said = []
    for _ in range(2):
        ended = command("publish", run, tmp_path / "demo", "--device", "cpu")
        assert (ended.code, ended.out) == (0, f"{tmp_path}/demo/000001.safetensors\n")
        said.append(ended.err)
    assert re.findall(r"(?m)^([\w ]+):", said[0]) == ["integrity", "known answers", "dev F1 and labels"]
    assert "published" in said[0]
    assert said[1] == f"{run}/best.safetensors: already there as 000001\n"
    assert len(versions(tmp_path / "demo")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}", "{demo}"], "empty: holds no best.safetensors; let its training end an epoch"),
        (["none.safetensors", "{demo}"], "none.safetensors: No such file or directory"),
        (["/dev/null", "{demo}"], "/dev/null: a folder or a device"),
        (["{model}", "{model}"], "new.safetensors: a file, not a model's folder; give a folder such as models/en"),
        (["{model}", "{model}/en"], "new.safetensors: a file, not a model's folder"),
        (["{model}", "{run}"], "run: a run's folder, not a model's; give a folder such as models/en"),
        (["{model}", "{link}"], "link: a link to nothing; make the folder it points to, or give another"),
        (["{seeds}", "{demo}"], "seeds.json: does not name the best seed; give one of the folders seed-N"),
        (["{model}", "/proc/self"], "/proc/self: Permission denied"),
        (["{model}", "/proc/none/en"], "check the path and its permissions"),
        (["{model}", "{demo}", "--margin", "-1"], "--margin"),
        (["{model}", "{demo}", "--labels", "A=B"], "--labels A=B: is for the files that --dev names"),
        (["{model}", "{demo}", "--dev", "none.txt"], "none.txt: No such file or directory"),
        (["{model}", "{demo}", "--dev", "{blank}"], "blank.txt: holds no entity"),
        (["{model}"], "FOLDER"),
    ],
)
def test_a_mistake_gets_one_line(
    make_model: MakeModel, tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    """Whatever is wrong, stderr ends with one line that says what, and nothing is published."""
    for name, inside, text in (("empty", "x", ""), ("run", "config.toml", ""), ("seeds", "seeds.json", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / inside).write_text(text)
    (tmp_path / "link").symlink_to("nothing")
    candidate = file(tmp_path / "new.safetensors", make_model())
    (tmp_path / "blank.txt").write_text("word O\n")
    names = {
        **{name: tmp_path / name for name in ("empty", "demo", "run", "seeds", "link")},
        "model": candidate,
        "blank": tmp_path / "blank.txt",
    }
    ended = command("publish", *(argument.format(**names) for argument in arguments))
    assert ended.code != 0
    assert ended.last.startswith("nertrainer: ")
    assert message in ended.last
    assert ended.out == ""
    assert not (tmp_path / "demo").exists()
