"""What a person sees of training and evaluation: a progress bar and tables."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nertrainer.evaluation import Evaluation, Scores

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
    table = Table(title=Text(title), title_justify="left")
    table.add_column("type")
    for column in ("precision", "recall", "F1", "entities"):
        table.add_column(column, justify="right")
    for name, scores in result.per_type.items():
        table.add_row(Text(name), *_cells(scores))
    table.add_section()
    table.add_row("all", *_cells(result.overall))
    if result.ignored:
        ignored = ", ".join(f"{count} {label}" for label, count in sorted(result.ignored.items()))
        table.caption = Text(f"not scored, as the file does not annotate them: {ignored}")
    return table


def _cells(scores: Scores) -> tuple[str, ...]:
    figures = (scores.precision, scores.recall, scores.f1)
    return (*(f"{100 * figure:.2f}" for figure in figures), f"{scores.support:,}")
