"""The page of evidence: one HTML file that needs nothing beside it, for a browser, a phone or paper."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from nermodel.tags import Span
from nertrainer.corpus import Corpus
from nertrainer.evidence import Evidence, Mistaken, clipped, surface
from nertrainer.plots import confusion_plot, f1_plot, reliability_plot
from nertrainer.tables import Table, calibration_table, groups_table, measures_table, percent

_STYLE = Path(__file__).with_name("page.css")


def page(title: str, facts: Mapping[str, str], results: Sequence[tuple[Corpus, Evidence]]) -> str:
    """The page of a model's results on each corpus; `facts` say what was measured, and when."""
    sections = "\n".join(_section(row, corpus, evidence) for row, (corpus, evidence) in enumerate(results))
    about = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="quiet">How well a named-entity tagger does, and where it errs.</p></header>
<main>
{sections}
</main>
<footer>
<h3>About these figures</h3>
<p class="quiet">Only types that a file annotates are scored. F1 is the harmonic mean of precision and recall over all
entities of a file together; boundaries and type must both be right (seqeval, strict mode, BIO). A score is the exact
probability, by the model, that just this span with this type is an entity; the calibration error is the mean distance,
in points of percent, between confidence (the mean score) and accuracy (the share that is right) of 10 bins (ECE).</p>
<div class="wide"><table class="facts"><tbody>{about}</tbody></table></div>
</footer>
</body>
</html>
"""


def _section(row: int, corpus: Corpus, evidence: Evidence) -> str:
    blocks = {
        "By type": _table(groups_table("type", evidence.evaluation.per_type, evidence.evaluation.overall))
        + _ignored(evidence),
        "By what counts as found": _table(measures_table(evidence.measures)),
        "By length": _pair(
            _figure(
                f1_plot(evidence.by_entity_length, "tokens of the entity", f"e{row}"), "F1 by length of the entity"
            ),
            _figure(
                f1_plot(evidence.by_sentence_length, "tokens of the sentence", f"s{row}"),
                "F1 by length of the sentence",
            ),
        ),
        "Seen and unseen entities": _surfaces(evidence),
        "What is taken for what": _figure(
            confusion_plot(evidence.confusion, f"c{row}"),
            "Each row: the entities of a type in the file, by what the model made of them. Boundaries: the two only "
            "overlap. Missed: nothing there. The last two rows: what else the model found, by type. The deeper the "
            "colour, the larger a share of the type.",
        ),
        "Can its scores be trusted?": _pair(
            _figure(
                reliability_plot(evidence.calibration, f"r{row}"),
                "Accuracy: the share that is right. Of the entities scored 0.8, 80 % should be: on the dashed line.",
            ),
            _table(calibration_table(evidence.calibration)),
        ),
        "Sentences with most errors": _sentences(evidence.worst),
    }
    sizes = (
        f"{len(corpus.sentences):,} sentences",
        f"{sum(len(sentence.words) for sentence in corpus.sentences):,} tokens",
        f"{evidence.evaluation.overall.support:,} entities",
    )
    return f"""<section>
<h2>{escape(str(corpus.path))}</h2>
<p class="quiet">{escape(", ".join(sizes))}</p>
{_cards(evidence)}
<p>{escape(" ".join(_in_words(evidence)))}</p>
{"".join(f"<h3>{title}</h3>{block}" for title, block in blocks.items())}
</section>"""


def _cards(evidence: Evidence) -> str:
    overall, ece = evidence.evaluation.overall, evidence.calibration.ece
    cards = {
        "F1": percent(overall.f1),
        "precision": percent(overall.precision),
        "recall": percent(overall.recall),
        "calibration error": "none" if ece is None else percent(ece),
        "tokens a second": f"{evidence.speed.tokens_per_s:,.0f}",
    }
    figures = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in cards.items())
    return f'<dl class="cards">{figures}</dl>'


def _in_words(evidence: Evidence) -> Iterable[str]:
    """The figures as a person would tell them."""
    overall = evidence.evaluation.overall
    if not overall.support:
        yield "The file annotates no entity, so nothing can be scored."
        return
    yield f"Of 100 entities that the model reports, {100 * overall.precision:.0f} are right;"
    yield f"of 100 that are there, it finds {100 * overall.recall:.0f}."
    types = sorted(evidence.evaluation.per_type.items(), key=lambda item: item[1].f1)
    if len(types) > 1:
        (worst, low), (best, high) = types[0], types[-1]
        yield f"It does best on {best} (F1 {percent(high.f1)}) and worst on {worst} (F1 {percent(low.f1)})."
    pairs = [
        (count, gold, predicted)
        for gold, row in evidence.confusion.same_boundaries.items()
        for predicted, count in row.items()
        if gold != predicted and count
    ]
    if pairs:
        count, gold, predicted = max(pairs)
        yield f"Most often it takes {gold} for {predicted} ({count:,} times)."
    top = evidence.calibration.bins[-1]
    if top.count and top.accuracy is not None:
        yield f"Of the {top.count:,} that it scores {top.low} or more, {100 * top.accuracy:.0f} % are right."


def _ignored(evidence: Evidence) -> str:
    counts = ", ".join(f"{count:,} {label}" for label, count in sorted(evidence.evaluation.ignored.items()))
    return f'<p class="quiet">Not scored, as the file does not annotate them: {escape(counts)}.</p>' if counts else ""


def _surfaces(evidence: Evidence) -> str:
    if evidence.by_surface is None:
        return '<p class="quiet">Not measured: needs the training text (<code>--train FILE</code>).</p>'
    return _table(groups_table("in the training text", evidence.by_surface))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "".join([*(_row(cells, "") for cells in table.rows), *(_row(cells, "all") for cells in table.last)])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(cells: Sequence[str], kind: str) -> str:
    name, *figures = map(escape, cells)
    return f'<tr class="{kind}"><th scope="row">{name}</th>{"".join(f"<td>{figure}</td>" for figure in figures)}</tr>'


def _figure(svg: str, caption: str) -> str:
    svg = svg.replace("<svg", f'<svg aria-label="{escape(caption)}"', 1)
    return f'<figure><div class="wide">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}{right}</div>'


def _sentences(worst: Sequence[Mistaken]) -> str:
    if not worst:
        return "<p>None: every entity is right.</p>"
    items = []
    for each in worst:
        found = [span for span, _ in each.predicted]
        gold = _marked(each.words, [(span, span in found, span.label) for span in each.gold])
        predicted = _marked(
            each.words, [(span, span in each.gold, f"{span.label} {score:.2f}") for span, score in each.predicted]
        )
        items.append(
            f'<li><span class="quiet">{escape(each.place)}, {each.errors} errors</span>'
            f'<dl><dt>file</dt><dd dir="auto">{gold}</dd><dt>model</dt><dd dir="auto">{predicted}</dd></dl></li>'
        )
    legend = (
        '<p class="quiet"><mark>words<small>TYPE</small></mark> right; '
        '<mark class="wrong">words<small>TYPE</small></mark> missed, or wrongly found. '
        "Numbers are the model's scores.</p>"
    )
    return f'{legend}<ol class="sentences">{"".join(items)}</ol>'


def _marked(words: Sequence[str], spans: Iterable[tuple[Span, bool, str]]) -> str:
    """The sentence with its entities marked as right or wrong and named."""
    shown = [*map(clipped, words)]
    parts: list[str] = []
    at = 0
    for span, right, name in spans:
        inside = escape(clipped(surface(words, span)))
        kind = "" if right else ' class="wrong"'
        parts += map(escape, shown[at : span.start])
        parts.append(f"<mark{kind}>{inside}<small>{escape(name)}</small></mark>")
        at = span.end
    return " ".join([*parts, *map(escape, shown[at:])])
