"""The page of evidence, as a browser would read it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.trainer.spans import random_pairs

from nermodel.tags import Span
from nertrainer.corpus import Corpus, Sentence
from nertrainer.evidence import examine
from nertrainer.page import page
from nertrainer.predictions import Prediction, Speed

VOID = {"meta", "br", "hr", "link", "img", "input"}
EVIL = '<script>alert("&")</script>'


class Reader(HTMLParser):
    """Collects what a page holds, and fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(sentences: list[Sentence], predicted: list[tuple[Span, ...]], count: int = 1, path: str = "x.conll") -> str:
    """The page of `count` files that are alike."""
    places = [f"{path}:{row}" for row in range(len(sentences))]
    found = [Prediction([(span, 0.75) for span in spans], -1.0) for spans in predicted]
    evidence = examine(sentences, places, found, Speed(10.0, 100.0, "cpu", 1), sentences)
    corpus = Corpus(Path(path), sentences, "BIO", [], places, frozenset("AB"), "", [Path(path)])
    return page("en/000001", {"Model": "en/000001"}, [(corpus, evidence)] * count)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_well_formed_and_needs_nothing_beside_it(seed: int) -> None:
    """Elements nest, ids are unique, and nothing is fetched: no script, no link, no address."""
    text = page_of(*random_pairs(seed, "ABC", others="Z"), count=2)
    found = Reader(text)
    assert found.tags.count("svg") == 8
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(found.tags)
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value for name, value in found.attributes if name in ("src", "href")]
    links += re.findall(r"url\(([^)]*)\)", text)
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert "://" not in text
    assert "@import" not in text


def test_what_the_user_wrote_is_text() -> None:
    """Words, labels and file names that look like HTML are shown, not read as such."""
    sentence = Sentence((EVIL, EVIL, "b", EVIL), (Span(1, 2, EVIL), Span(2, 3, "B")))
    found = Reader(page_of([sentence], [(Span(1, 3, EVIL),)], path=f"{EVIL}.txt"))
    assert "script" not in found.tags
    assert found.text.count(" ".join(sentence.words[:2])) == 2
    assert found.text.count(EVIL) > 12


def test_labels_in_any_script_are_drawn() -> None:
    """Letters that matplotlib has no font for, and dollars that it could take for formulas, are in the plot as text."""
    sentence = Sentence(("x", "y"), (Span(0, 1, "組織"), Span(1, 2, "$a$")))
    plots = "".join(re.findall(r"<svg.*?</svg>", page_of([sentence], [sentence.spans]), re.DOTALL))
    assert ">組織<" in plots
    assert ">$a$<" in plots


def test_figures_of_the_plots_are_those_of_the_tables() -> None:
    """The heat map holds the counts, the bars the F1 of each length."""
    sentence = Sentence(("x",) * 40, (*(Span(at, at + 1, "A") for at in range(33)), Span(35, 37, "B")))
    predicted = (*(Span(at, at + 1, "A") for at in range(22)), *(Span(at, at + 1, "B") for at in range(22, 33)))
    plots = "".join(re.findall(r"<svg.*?</svg>", page_of([sentence], [predicted]), re.DOTALL))
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", plots)
    assert {"22", "11", "66.7", "n = 33", "boundaries", "missed", "spurious"} <= set(shown)


@pytest.mark.parametrize("predicted", [(), (Span(0, 1, "A"),)])
def test_a_file_without_entities_has_a_page(predicted: tuple[Span, ...]) -> None:
    """It says that nothing can be scored."""
    assert "nothing can be scored" in Reader(page_of([Sentence(("x",), ())], [predicted])).text
