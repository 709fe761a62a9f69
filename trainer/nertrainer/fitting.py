"""Training in a run's folder: every epoch examined and written, the best kept, all saved against sudden ends."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.progress import Progress as Bar
from rich.progress import TaskID

from nermodel.checkpoint import Card, Model, load, rounded
from nermodel.files import replace_file
from nermodel.network import NetworkConfig
from nermodel.vocabulary import Vocabulary
from nertrainer import processes
from nertrainer.board import Board
from nertrainer.corpus import Corpus, Sentence
from nertrainer.evaluation import evaluate, f1_in_int8
from nertrainer.loop import EpochEnd, Recipe, Step, Training, new_network
from nertrainer.mentions import Mentions
from nertrainer.report import training_bar
from nertrainer.run import Progress, Run
from nertrainer.stopping import Stop, Stopped
from nertrainer.teacher import Opinion
from nertrainer.temperature import fitted_temperature
from nertrainer.vectors import Vectors

KNOWN_ANSWERS = 8
BOARD_STEPS = 10  # from one point of TensorBoard's curves to the next


@dataclass(frozen=True)
class Lesson:
    """What is learned and how it is examined, the same for every seed."""

    sentences: Sequence[Sentence]
    opinions: Sequence[Opinion]  # of teachers on each sentence, if there are teachers
    mentions: Mentions | None  # to put in the place of others
    vocabulary: Vocabulary
    table: tuple[str, ...]
    network: NetworkConfig
    vectors: Vectors
    start: Model | None  # to go on from
    dev: Mapping[str, Corpus]  # under names that tell them apart
    provenance: Mapping[str, Any]
    device: torch.device

    def training(self, recipe: Recipe) -> Training:
        """The start of a training."""
        network = new_network(self.network, self.vocabulary, self.table, self.vectors, recipe, self.start)
        return Training(
            network, self.vocabulary, self.table, self.sentences, recipe, self.device, self.opinions, self.mentions
        )

    @property
    def known(self) -> list[tuple[str, ...]]:
        """A few sentences, evenly spaced among those of the first dev file that hold entities, for known answers."""
        first = next(iter(self.dev.values())).sentences
        telling = [sentence.words for sentence in first if sentence.spans and len(sentence.words) <= 50]
        return telling[:: max(1, len(telling) // KNOWN_ANSWERS)][:KNOWN_ANSWERS]

    @property
    def tokens(self) -> int:
        """Words of an epoch."""
        return sum(len(sentence.words) for sentence in self.sentences)


def fit(run: Run, lesson: Lesson, recipe: Recipe, stop: Stop, save_every_s: float, say: Callable[[str], None]) -> None:
    """Train to the recipe's end, from where the run was saved last, and keep the best epoch with calibrated scores.

    Stopped, with the state saved, when a signal asks for it; FloatingPointError when the loss is not finite.
    """
    with stop.at_once():
        fitting = _Fitting(run, lesson, recipe, stop, say)
    try:
        if not processes.shared(fitting.is_over):
            fitting.go_on(save_every_s)
    except FloatingPointError as error:
        kept = fitting.best and f"the best so far, {described(fitting.best)}, is {run.best_path}"
        raise FloatingPointError(f"{error}; {kept or 'no epoch ended, so nothing is kept'}") from error
    with stop.at_once():
        model = load(run.best_path, lesson.device)
        temperature = fitted_temperature(model, list(lesson.dev.values()))
    if temperature != model.card.temperature:  # else a resumed run was calibrated before
        run.keep(replace(model, card=replace(model.card, temperature=temperature)), lesson.known)
    say(f"scores are calibrated at temperature {temperature}")


def follow(lesson: Lesson, recipe: Recipe, stop: Stop) -> None:
    """Train beside process 0, which examines, writes, and says after each epoch whether it is over."""
    training = lesson.training(recipe)
    state = processes.shared(None)
    if state is not None:
        training.restore(state)
    try:
        is_over = processes.shared(None)
        events = training.run()
        while not is_over:
            if isinstance(next(events), EpochEnd):
                is_over = processes.shared(None)
    except ValueError:
        if not stop.is_asked:  # else process 0 stopped first
            raise


def described(best: Card) -> str:
    """The epoch and figure of a run's best checkpoint."""
    return f"epoch {best.provenance['epoch']} with dev F1 {100 * best.metrics['dev_f1']:.2f}"


class _Fitting:
    """The training of one run under way in this process."""

    def __init__(self, run: Run, lesson: Lesson, recipe: Recipe, stop: Stop, say: Callable[[str], None]):
        self._run = run
        self._lesson = lesson
        self._recipe = recipe
        self._stop = stop
        self._say = say
        self._card = Card(lesson.table, lesson.network, {}, {**lesson.provenance, "recipe": asdict(recipe)})
        self._training = lesson.training(recipe)
        self._steps = self._training.steps
        state = processes.shared(run.state())
        if state is not None:
            self._training.restore(state)
        self._unexamined = state  # of the end of an epoch, whose examination begins anew if it is broken off
        self._progress = run.progress
        self.best = run.best()
        self._began = time.monotonic() - run.progress.seconds

    @property
    def is_over(self) -> bool:
        """Whether the last epoch ended, or patience did."""
        ended = self._run.progress.epochs
        if not ended or self.best is None:
            return False
        return ended >= self._recipe.epochs or ended - self.best.provenance["epoch"] >= self._recipe.patience

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def go_on(self, save_every_s: float) -> None:
        """Train until it is over."""
        begin = self._steps * self._progress.epochs + self._progress.step
        saved = time.monotonic()
        with Board(self._run.path, begin) as board, training_bar() as bar:
            task = bar.add_task("", total=self._steps * self._recipe.epochs, loss="", f1=_percent(self.best))
            for event in self._training.run():
                if isinstance(event, EpochEnd):
                    self._end_epoch(event, board)
                    bar.update(task, f1=_percent(self.best))
                    if processes.shared(self.is_over):
                        return
                    self._stop.check(f"saved at the end of epoch {event.epoch}")
                    saved = time.monotonic()
                    continue
                self._show(event, board, bar, task)
                self._progress = Progress(event.epoch - 1, event.step, event.lr, self._seconds)
                if event.step == self._steps:
                    self._unexamined = self._training.state()
                elif self._stop.is_asked or time.monotonic() - saved >= save_every_s:
                    board.flush()
                    self._run.save(self._training.state(), self._progress)
                    self._stop.check(f"saved at epoch {event.epoch}, step {event.step} of {self._steps}")
                    saved = time.monotonic()

    def _show(self, event: Step, board: Board, bar: Bar, task: TaskID) -> None:
        step = self._steps * (event.epoch - 1) + event.step
        bar.update(task, completed=step, description=f"epoch {event.epoch}", loss=f"{event.loss:.2f}")
        if event.step % BOARD_STEPS == 0:
            board.add(step, {"loss": event.loss, "lr": event.lr})

    def _end_epoch(self, event: EpochEnd, board: Board) -> None:
        """Examine the network, and write what came of it; Stopped, with the steps saved, if a signal breaks it off."""
        from nertrainer.curve import curve  # noqa: PLC0415 - matplotlib takes half a second, also of `--help`

        trained = self._seconds
        try:
            with self._stop.at_once():
                model = rounded(self._card, self._lesson.vocabulary, event.network, self._lesson.device)
                each = {name: evaluate(model, dev.sentences).overall.f1 for name, dev in self._lesson.dev.items()}
        except Stopped as stopped:
            assert self._unexamined is not None
            self._run.save(self._unexamined, self._progress)
            raise Stopped(stopped.number, f"saved at the end of epoch {event.epoch}, before its scores") from None
        f1 = sum(each.values()) / len(each)
        figures = {"dev_f1": f1, **{f"dev_f1/{name}": value for name, value in each.items()}}
        if self.best is None or f1 > self.best.metrics["dev_f1"]:
            if self._run.state_is_missing:  # a best epoch without a state is a run that lost it
                assert self._unexamined is not None
                self._run.save(self._unexamined, self._progress)
            figures |= self._int8_figures(model)
            provenance = {**self._card.provenance, "epoch": event.epoch, "seconds": round(self._seconds)}
            self.best = replace(self._card, metrics=figures, provenance=provenance)
            self._run.keep(replace(model, card=self.best), self._lesson.known)
        before = self._run.metrics[-1]["seconds"] if self._run.metrics else 0.0
        seconds = self._seconds
        line = {
            "epoch": event.epoch,
            "step": self._steps * event.epoch,
            "loss": event.loss,
            "lr": self._progress.lr,
            "dev_f1": f1,
            "dev_f1_each": each,
            "seconds": seconds,
            "tokens_per_second": round(self._lesson.tokens / (trained - before)),
        }
        self._run.log(line)
        replace_file(self._run.path / "curve.png", curve(self._run.metrics, self.best.provenance["epoch"]))
        board.add(self._steps * event.epoch, figures)
        board.flush()
        self._run.save(self._training.state(), Progress(event.epoch, 0, self._progress.lr, seconds))
        self._say(f"epoch {event.epoch}: loss {event.loss:.3f}, dev F1 {100 * f1:.2f}")

    def _int8_figures(self, model: Model) -> dict[str, float]:
        """Mean dev F1 of the model in int8, by which a server decides whether it may; nothing where that cannot run."""
        scores = [f1_in_int8(model, dev.sentences) for dev in self._lesson.dev.values()]
        known = [score for score in scores if score is not None]
        return {"dev_f1_int8": sum(known) / len(known)} if known else {}


def _percent(best: Card | None) -> str:
    return "" if best is None else f"{100 * best.metrics['dev_f1']:.2f}"
