"""What a person sees of training and evaluation: a progress bar and tables."""

from collections.abc import Iterator

import rich.table
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nertrainer.compare import Comparison
from nertrainer.evaluation import Evaluation
from nertrainer.evidence import Evidence, Mistaken, clipped, surface
from nertrainer.measures import MEASURES
from nertrainer.tables import (
    Table,
    calibration_table,
    comparison_table,
    confusion_table,
    groups_table,
    measures_table,
    percent,
)

NARROWEST = 72  # columns; tables in fewer are heaps of single letters
screen = Console(stderr=True)


def sheet() -> Console:
    """A console on stdout for tables, as wide as the terminal or as they need at least."""
    console = Console(highlight=False)
    console.width = max(NARROWEST, console.width)
    return console


def training_bar() -> Progress:
    """A bar on a terminal's stderr with the fields `loss` and `f1`, and nothing elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  best dev F1 {task.fields[f1]}"),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )


def scores_table(result: Evaluation, title: str) -> rich.table.Table:
    """Precision, recall and F1 in percent of each type and overall."""
    table = _drawn(title, groups_table("type", result.per_type, result.overall))
    if result.ignored:
        ignored = ", ".join(f"{count} {label}" for label, count in sorted(result.ignored.items()))
        table.caption = Text(f"not scored, as the file does not annotate them: {ignored}")
    return table


def summary(evidence: Evidence, title: str) -> Iterator[RenderableType]:
    """The headline of a model's evidence: scores by type, and in one line each the rest."""
    yield scores_table(evidence.evaluation, title)
    for name, meaning in MEASURES.items():
        if name != "strict":
            yield Text(f"F1 {percent(evidence.measures[name].overall.f1)} counting {meaning}")
    if evidence.calibration.ece is not None:
        yield Text(f"scores are off by {100 * evidence.calibration.ece:.1f} points on average (calibration error)")
    speed = evidence.speed
    yield Text(
        f"{speed.sentences_per_s:,.0f} sentences or {speed.tokens_per_s:,.0f} tokens a second on {speed.device}, "
        f"threads: {speed.threads}"
    )


def details(evidence: Evidence) -> Iterator[RenderableType]:
    """All that the summary leaves out."""
    yield _drawn("by what counts as found", measures_table(evidence.measures))
    yield _drawn("by length of the entity", groups_table("tokens", evidence.by_entity_length))
    yield _drawn("by length of the sentence", groups_table("tokens", evidence.by_sentence_length))
    if evidence.by_surface:
        yield _drawn("seen and unseen entities", groups_table("in the training text", evidence.by_surface))
    yield _drawn("what is taken for what", confusion_table(evidence.confusion))
    yield _drawn("calibration of scores", calibration_table(evidence.calibration))
    if evidence.worst:
        yield Text("sentences with most errors", style="italic")
    for mistaken in evidence.worst:
        yield _mistaken(mistaken)


def comparison(result: Comparison, title: str) -> Iterator[RenderableType]:
    """Two models' F1 in percent by type, how sure the difference is, and what each finds alone."""
    yield _drawn(title, comparison_table(result))
    for name, alone in (("A", result.only_a), ("B", result.only_b)):
        types = ", ".join(f"{label} {count}" for label, count in alone.per_type.items())
        text = Text(f"only {name} finds {alone.count:,} entities" + (f" ({types}), such as" if types else ""))
        for example in alone.examples:
            text.append(f"\n  {clipped(example.surface)} [{example.label}]")
            text.append(f" {example.count} times" if example.count > 1 else "")
        yield text


def _mistaken(mistaken: Mistaken) -> Text:
    """The sentence, and below it which entities of the file and of the model agree and which do not."""
    words, gold = mistaken.words, set(mistaken.gold)
    found = {span for span, _ in mistaken.predicted}
    missed = [f"{clipped(surface(words, span))} [{span.label}]" for span in mistaken.gold if span not in found]
    scored = [
        (f"{clipped(surface(words, span))} [{span.label} {score:.2f}]", span in gold)
        for span, score in mistaken.predicted
    ]
    wrong, right = ([entity for entity, agrees in scored if agrees == which] for which in (False, True))
    text = Text(f"\n{mistaken.place}, {mistaken.errors} errors\n{' '.join(map(clipped, words))}")
    for name, entities in (("missed", missed), ("wrong", wrong), ("right", right)):
        if entities:
            text.append(f"\n  {name + ':':8}{', '.join(entities)}")
    return text


def _drawn(title: str, table: Table) -> rich.table.Table:
    drawn = rich.table.Table(title=Text(title), title_justify="left")
    for row, column in enumerate(table.columns):
        drawn.add_column(Text(column), justify="right" if row else "left")
    for rows in (table.rows, table.last):
        for cells in rows:
            drawn.add_row(*map(Text, cells))
        drawn.add_section()
    return drawn
