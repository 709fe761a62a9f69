"""Raw text to sentences and tokens, as offsets into the text, which is never changed.

Sentence boundaries are syntok's. Tokens follow the Penn Treebank's habits, as the public corpora do: `U.S.`, `Inc.`,
`Coca-Cola`, `O'Neil`, `@handle` and `#tag` are one token, `Maria's` is two (`Maria`, `'s`), and so is `did` + `n't`.
"""

import re
from itertools import islice, pairwise

from syntok.segmenter import preprocess_with_offsets, segment
from syntok.tokenizer import Tokenizer

# A letter, digit or underscore, or a mark that combines with one.
_W = r"[\w\u0300-\u036f]"
_ABBREVIATIONS = (
    "Mr Mrs Ms Dr Prof St Jr Sr Gov Sen Rep Gen Col Capt Lt Sgt Rev Hon Pres Inc Corp Co Ltd Bros Cos vs No Mt Ft Ave"
)
_TOKEN = re.compile(
    rf"""
      https?://[^\s<>"]*[\w/]                                  # address of a page
    | www\.[^\s<>"]*[\w/]
    | [\w.+-]{{1,64}}@(?:[\w-]{{1,63}}\.)+\w+                          # e-mail
    | [@\#]{_W}+                                               # handle, hash tag
    | (?:[^\W\d_]\.){{2,}}                                     # U.S., e.g.
    | (?:{"|".join(_ABBREVIATIONS.split())})\.                 # Inc.
    | [A-Z]\.(?=\s*[A-Z])                                      # initial before a name
    | \d+(?:[.,:/-]\d+)+                                       # 1,000.5  3-2  12:30  2026-11-22
    | {_W}+?(?=n['’]t\b)                                       # did|n't
    | n['’]t\b
    | ['’](?:s|S|m|M|d|D|re|RE|ve|VE|ll|LL)\b                  # 's 'm 'd 're 've 'll
    | {_W}+(?:(?:(?!['’](?:[sSmMdD]|re|ve|ll|RE|VE|LL)\b)['’]|[-&]|\.(?=[^\W\d_]{{2}})){_W}+)*  # O'Neil Coca-Cola AT&T
    | ([^\w\s])\1*                                             # punctuation, a run of one kind: ... !! --
    """,
    re.VERBOSE,
)
Offsets = tuple[int, int]


def tokenize(text: str) -> list[Offsets]:
    """Tokens of one sentence as (start, end) code point offsets, ascending, each without white space."""
    return [match.span() for match in _TOKEN.finditer(text)]


def split_sentences(text: str) -> list[Offsets]:
    """Sentences as (start, end) code point offsets, in order, that together are the text."""
    tokenizer = Tokenizer(replace_not_contraction=False)
    # Not syntok's analyze(): it pads every paragraph with its offset, which is quadratic in paragraphs.
    starts = (
        offset + sentence[0].offset
        for offset, paragraph in preprocess_with_offsets(text)
        for sentence in segment(tokenizer.tokenize(paragraph))
        if sentence
    )
    return list(pairwise(dict.fromkeys([0, *islice(starts, 1, None), len(text)])))
