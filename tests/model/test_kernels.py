"""The Triton kernel against the torch functions.

It runs on a GPU or, with TRITON_INTERPRET=1 and a NumPy before 2.4, in Triton's interpreter.
"""

import os
import random

import pytest
import torch
from tests.model.test_crf import in_float64, paths, random_potentials

from nermodel.crf import Potentials, path_spans, span_probabilities, viterbi
from nermodel.tags import SCHEMES, Scheme, tag_table

triton = pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")
from nermodel.kernels import TritonDecoder, _decode, warps  # noqa: E402

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu")
runs = pytest.mark.skipif(
    DEVICE.type == "cpu" and not IS_INTERPRETED, reason="needs a CUDA device or TRITON_INTERPRET=1"
)
pytestmark = [pytest.mark.filterwarnings("ignore")] if IS_INTERPRETED else list[pytest.MarkDecorator]()
TOLERANCE = 1e-4 if DEVICE.type == "cuda" else 1e-5
LABELS = ("LOC", "MISC", "ORG", "PER")


def decoded(potentials: Potentials, lengths: list[int], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tags and scores of all tokens [N], as the kernel finds them; without scores it finds the same tags."""
    emissions, _, *steps = (value.to(DEVICE) for value in potentials)
    ends = torch.tensor(lengths, device=DEVICE).cumsum(0)
    sizes = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    size = sum(lengths)
    tags, plain = (torch.full((size,), 255, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    scores = torch.full((size,), torch.nan, device=DEVICE)
    decode = TritonDecoder(steps[0], steps[1], steps[2], temperature)
    emissions = emissions.transpose(0, 1).contiguous()
    decode(emissions, (ends - sizes).int(), sizes, tags, scores)
    decode(emissions, (ends - sizes).int(), sizes, plain, None)
    assert torch.equal(tags, plain)
    return tags.cpu().long(), scores.cpu()


def check(potentials: Potentials, lengths: list[int], temperature: float, tolerance: float = TOLERANCE) -> None:
    """Compare with the torch functions, rows of no tokens left out of theirs."""
    tags, scores = decoded(potentials, lengths, temperature)
    full = [row for row, length in enumerate(lengths) if length]
    potentials = potentials._replace(emissions=potentials.emissions[full], lengths=potentials.lengths[full])
    path = viterbi(*potentials)
    assert tags.tolist() == [tag for row, n in zip(path.tolist(), potentials.lengths, strict=True) for tag in row[:n]]
    rows, starts, ends = path_spans(path, potentials.lengths, potentials.start)
    expected = torch.zeros(len(tags))
    places = potentials.lengths.cumsum(0) - potentials.lengths
    tempered = in_float64(potentials).tempered(temperature)
    expected[places[rows] + starts] = span_probabilities(tempered, path, rows, starts, ends).float()
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerance)


@runs
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("labels", [("X",), LABELS, tuple(f"L{number:02}" for number in range(11))])
def test_a_ragged_batch_is_decoded_as_by_torch(labels: tuple[str, ...], scheme: Scheme) -> None:
    """Tags are those of `viterbi`, scores those of `span_probabilities`, for few and many tags and empty rows."""
    rng = random.Random(1)
    lengths = [rng.randint(1, 40) for _ in range(4)] + [1, 0]
    check(
        random_potentials(2, [*lengths[:-1], 1], tag_table(labels, scheme))._replace(lengths=torch.tensor(lengths)),
        lengths,
        1.3,
    )


@runs
def test_small_ones_are_the_best_by_enumeration() -> None:
    """Every tag is that of the best of all legal paths."""
    lengths = [1, 2, 3, 4, 3]
    potentials = random_potentials(3, lengths, tag_table("XY", "BIO"))
    tags, _ = decoded(potentials, lengths, 1.0)
    emissions, _, *steps = potentials
    expected: list[int] = []
    for row, length in enumerate(lengths):
        expected += max(paths(emissions[row, :length].double(), *steps), key=lambda scored: scored[1])[0]
    assert tags.tolist() == expected


@runs
def test_ties_fall_as_in_viterbi() -> None:
    """Of paths with whole scores, many of them equal, the one is taken that the torch function takes."""
    lengths = [9, 40, 17, 30]
    potentials = random_potentials(4, lengths, tag_table("XY", "BIOES"))
    emissions, *steps = (potentials.emissions / 3).round(), *(values.round() for values in potentials[2:])
    whole = Potentials(emissions, potentials.lengths, *steps)
    tags, _ = decoded(whole, lengths, 1.0)
    path = viterbi(*whole).tolist()
    assert tags.tolist() == [tag for row, n in zip(path, lengths, strict=True) for tag in row[:n]]


@runs
@pytest.mark.parametrize(("scale", "tolerance"), [(20.0, 1e-4), (1e5, 0.05)])
def test_large_scores_are_no_trouble(scale: float, tolerance: float) -> None:
    """Also far from zero, and where the best tag by far is an illegal one, probabilities are as right as digits go."""
    potentials = random_potentials(5, [60, 33], tag_table("XY", "BIO"))
    check(potentials._replace(emissions=potentials.emissions * (scale / 3) + scale), [60, 33], 1.0, tolerance)


@pytest.mark.skipif(IS_INTERPRETED, reason="what is interpreted is not compiled")
@pytest.mark.parametrize("is_scored", [False, True])
@pytest.mark.parametrize("tags", [3, 17, 41])
def test_it_compiles_for_an_h100_without_spilling(tags: int, is_scored: bool) -> None:
    """Triton and ptxas make machine code of it, with no GPU at hand, whose registers hold all."""
    compiler = pytest.importorskip("triton.backends.compiler")
    pointers = {"lengths": "*i32", "starts": "*i32", "tags": "*u8", "back": "*u8"}
    numbers = {"rows": "i32", "steps": "i32", "coldness": "fp32"}
    constants = {"C": tags, "P": triton.next_power_of_2(tags), "SCORED": is_scored, "REBASE": 32}
    types = {name: "constexpr" if name in constants else "*fp32" for name in _decode.arg_names} | pointers | numbers
    source = triton.compiler.ASTSource(fn=_decode, signature=types, constexprs=constants)
    options = {"num_warps": warps(constants["P"]), "num_stages": 1}
    made = triton.compile(source, target=compiler.GPUTarget("cuda", 90, 32), options=options)
    assert len(made.asm["cubin"]) > 1000
    assert ".local" not in made.asm["ptx"]
