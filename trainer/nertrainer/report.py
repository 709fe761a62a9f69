"""What a person sees of training and evaluation: a progress bar and tables."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nertrainer.compare import Comparison, Difference
from nertrainer.confusion import Confusion
from nertrainer.evaluation import Evaluation, Scores
from nertrainer.evidence import Evidence, Mistaken, surface
from nertrainer.measures import MEASURES

screen = Console(stderr=True)


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


def scores_table(result: Evaluation, title: str) -> Table:
    """Precision, recall and F1 in percent of each type and overall."""
    table = _groups_table(title, "type", result.per_type)
    table.add_section()
    table.add_row("all", *cells(result.overall))
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
    table = _table("by what counts as found", ("", "precision", "recall", "F1"))
    for name, measure in evidence.measures.items():
        figures = (measure.overall.precision, measure.overall.recall, measure.overall.f1)
        table.add_row(f"{name}: {MEASURES[name]}", *map(percent, figures))
    yield table
    yield _groups_table("by length of the entity", "tokens", evidence.by_entity_length)
    yield _groups_table("by length of the sentence", "tokens", evidence.by_sentence_length)
    if evidence.by_surface:
        yield _groups_table("known and new entities", "words, in the training text", evidence.by_surface)
    yield _confusion_table(evidence.confusion)
    table = _table("calibration of scores", ("score", "entities", "mean score", "share right"))
    for each in evidence.calibration.bins:
        if each.count:
            table.add_row(
                f"{each.low:.1f} to {each.high:.1f}",
                f"{each.count:,}",
                f"{each.mean_score:.3f}",
                f"{each.share_right:.3f}",
            )
    yield table
    if evidence.worst:
        yield Text("sentences with most errors", style="italic")
    for mistaken in evidence.worst:
        yield _mistaken(mistaken)


def comparison(result: Comparison, title: str) -> Iterator[RenderableType]:
    """Two models' F1 in percent by type, how sure the difference is, and what each finds alone."""
    table = _table(title, ("type", "F1 of A", "F1 of B", "B - A", "95 % interval", "p", "entities"))
    for name, difference in result.per_type.items():
        table.add_row(Text(name), *_difference_cells(difference))
    table.add_section()
    table.add_row("all", *_difference_cells(result.overall))
    yield table
    for name, alone in (("A", result.only_a), ("B", result.only_b)):
        types = ", ".join(f"{label} {count}" for label, count in alone.per_type.items())
        text = Text(f"only {name} finds {alone.count:,} entities" + (f" ({types}), such as" if types else ""))
        for example in alone.examples:
            text.append(f"\n  {example.surface} [{example.label}]")
            text.append(f" {example.count} times" if example.count > 1 else "")
        yield text


def percent(figure: float) -> str:
    """A figure in [0, 1] as percent."""
    return f"{100 * figure:.2f}"


def cells(scores: Scores) -> tuple[str, ...]:
    """Precision, recall and F1 in percent, no figures where there are no entities, and their number."""
    figures = (scores.precision, scores.recall, scores.f1)
    return (*(percent(figure) if scores.support else "-" for figure in figures), f"{scores.support:,}")


def _confusion_table(confusion: Confusion) -> Table:
    labels = list(confusion.same_borders)
    table = _table("what is taken for what", ("file \\ model", *labels, "other borders", "missed"))
    for label in labels:
        table.add_row(
            Text(label),
            *(f"{count:,}" for count in confusion.same_borders[label].values()),
            f"{confusion.gold_other_borders[label]:,}",
            f"{confusion.missed[label]:,}",
        )
    table.add_section()
    table.add_row("other borders", *(f"{count:,}" for count in confusion.predicted_other_borders.values()))
    table.add_row("spurious", *(f"{count:,}" for count in confusion.spurious.values()))
    return table


def _mistaken(mistaken: Mistaken) -> Text:
    """The sentence, and below it which entities of the file and of the model agree and which do not."""
    words, gold = mistaken.words, set(mistaken.gold)
    found = {span for span, _ in mistaken.predicted}
    missed = [f"{surface(words, span)} [{span.label}]" for span in mistaken.gold if span not in found]
    scored = [
        (f"{surface(words, span)} [{span.label} {score:.2f}]", span in gold) for span, score in mistaken.predicted
    ]
    wrong, right = ([entity for entity, agrees in scored if agrees == which] for which in (False, True))
    text = Text(f"\n{mistaken.place}, {mistaken.errors} errors\n{' '.join(words)}")
    for name, entities in (("missed", missed), ("wrong", wrong), ("right", right)):
        if entities:
            text.append(f"\n  {name + ':':8}{', '.join(entities)}")
    return text


def _difference_cells(difference: Difference) -> tuple[str, ...]:
    interval = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    p_value = "< 0.001" if difference.p_value < 0.001 else f"{difference.p_value:.3f}"
    figures = (percent(difference.f1_a), percent(difference.f1_b), f"{100 * difference.difference:+.2f}")
    return (*figures, interval, p_value, f"{difference.support:,}")


def _groups_table(title: str, name: str, groups: Mapping[str, Scores]) -> Table:
    table = _table(title, (name, "precision", "recall", "F1", "entities"))
    for group, scores in groups.items():
        table.add_row(Text(group), *cells(scores))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for row, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if row else "left")
    return table
