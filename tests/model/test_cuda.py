"""The tagger of a GPU. On a CPU it runs too, so that only what CUDA alone does waits for a device."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.bench.reference import corpus
from tests.conftest import WORDS, MakeModel
from tests.model.test_crf import random_potentials
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

import nermodel.cuda
import nermodel.graphs
import nermodel.windows
from nermodel import DEFAULT
from nermodel.checkpoint import Model, load
from nermodel.crf import Candidates, Potentials, candidates, viterbi
from nermodel.cuda import CudaTagger
from nermodel.decoding import TorchDecoder, trusted
from nermodel.graphs import Graphs
from nermodel.network import Network
from nermodel.tagger import Answer, Ask, TorchTagger
from nermodel.tags import SCHEMES, Scheme, tag_table

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
STRANGE = ("Unseen", "x" * 50, "x" * 70, "é", "42", "1996-08-22", "", "\ud800", "a b")
Asked = list[tuple[list[str], Ask]]


def batch(seed: int, count: int, longest: int) -> Asked:
    """Random sentences, empty ones too, and what each is asked for."""
    rng = random.Random(seed)
    words = [*WORDS, *STRANGE]
    return [
        ([rng.choice(words) for _ in range(rng.randint(0, longest))], rng.choice([None, 0, 0.05, 0.6]))
        for _ in range(count)
    ]


def tag(tagger: CudaTagger | TorchTagger, asked: Sequence[tuple[list[str], Ask]]) -> list[Answer]:
    return tagger.tag([words for words, _ in asked], [ask for _, ask in asked])


def assert_same(found: Sequence[Answer], expected: Sequence[Answer], tolerance: float = 1e-5) -> None:
    """The same but for the last digits of the scores."""
    assert [answer.tags for answer in found] == [answer.tags for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert [entity[:3] for entity in one.entities] == [entity[:3] for entity in other.entities]
        for first, second in zip(one.entities, other.entities, strict=True):
            assert first.score == pytest.approx(second.score, abs=tolerance)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read sentences of more than 24 tokens in windows."""
    monkeypatch.setattr(nermodel.windows, "WINDOW_TOKENS", 24)
    monkeypatch.setattr(nermodel.windows, "CONTEXT_TOKENS", 6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_answers_are_those_of_the_reference(make_model: MakeModel, scheme: Scheme, layers: int) -> None:
    """Tags, entities and scores of a ragged batch that is asked for everything are those of plain torch."""
    model = make_model(scheme=scheme, layers=layers)
    model = replace(model, card=replace(model.card, temperature=1.4))
    asked = batch(1, 150, 40)
    expected = tag(TorchTagger(model), asked)
    assert sum(len(answer.entities) for answer in expected) > 1000
    assert_same(tag(CudaTagger(model), asked), expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_an_answer_does_not_depend_on_the_batch(make_model: MakeModel, layers: int) -> None:
    """A sentence alone gets what it gets in batches of any size and order."""
    tagger = CudaTagger(make_model(layers=layers))
    asked = batch(2, 60, 30)
    alone = [tag(tagger, [one])[0] for one in asked]
    rng = random.Random(3)
    order = list(range(len(asked)))
    rng.shuffle(order)
    while order:
        rows, order = order[: (size := rng.randint(1, 25))], order[size:]
        assert_same(tag(tagger, [asked[row] for row in rows]), [alone[row] for row in rows])


@pytest.mark.usefixtures("short_windows")
def test_a_small_table_gives_the_same_answers(make_model: MakeModel) -> None:
    """Words that left the table and come again are encoded anew, also within a batch, and get the same answers."""
    model = make_model()
    rng = random.Random(4)
    words = [f"{word}{number}" for word in WORDS for number in range(20)]
    asked: Asked = [([rng.choice(words) for _ in range(rng.randint(1, 24))], 0) for _ in range(60)]
    small, large = CudaTagger(model, word_types=40), CudaTagger(model)
    expected = tag(large, asked)
    for _ in range(2):
        assert_same(tag(small, asked), expected)


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("ask", [None, 0, 0.3])
def test_a_long_sentence_is_read_in_windows_and_decoded_once(make_model: MakeModel, ask: Ask) -> None:
    """Its answer is that of the reference, which reads the same windows, and its neighbours' are as ever."""
    model = make_model(layers=2)
    rng = random.Random(5)
    asked = [*batch(5, 4, 20), ([rng.choice(WORDS) for _ in range(500)], ask), *batch(6, 4, 20)]
    expected = tag(TorchTagger(model), asked)
    assert len(expected[4].entities) > 20
    assert_same(tag(CudaTagger(model), asked), expected)


def test_nothing_in_nothing_out(make_model: MakeModel) -> None:
    """No sentences have no answers, and empty ones have no tags and lists of entities of their own."""
    tagger = CudaTagger(make_model())
    assert tagger.tag([], []) == []
    answers = tagger.tag([[], [], []], [None, 0, 0.5])
    assert answers == [Answer(b"", [])] * 3
    assert len({id(answer.entities) for answer in answers}) == 3


def test_batches_may_be_under_way_together(make_model: MakeModel) -> None:
    """Results may be taken in any order, while other batches were started."""
    tagger = CudaTagger(make_model(), word_types=64)
    batches = [batch(seed, 10, 6) for seed in range(5)]
    expected = [tag(tagger, asked) for asked in batches]
    pending = [tagger.submit([words for words, _ in asked], [ask for _, ask in asked]) for asked in batches]
    for under_way, answers in reversed(list(zip(pending, expected, strict=True))):
        assert_same(tagger.result(under_way), answers)


def test_float16_is_near(make_model: MakeModel) -> None:
    """With half the digits the probabilities stay near those of float32."""
    model = make_model()
    with torch.no_grad():
        model.network.output.weight.div_(20)
    asked: Asked = [(words, 0) for words, _ in batch(7, 40, 12)]
    exact, near = tag(CudaTagger(model), asked), tag(CudaTagger(model, "float16"), asked)
    scores = {(row, *entity[:3]): entity.score for row, answer in enumerate(exact) for entity in answer.entities}
    found = {(row, *entity[:3]): entity.score for row, answer in enumerate(near) for entity in answer.entities}
    both = scores.keys() & found.keys()
    assert len(both) > 0.98 * max(len(scores), len(found)) > 100
    assert [found[key] for key in both] == pytest.approx([scores[key] for key in both], abs=2e-3)


@pytest.mark.usefixtures("short_windows")
def test_a_long_sentence_that_does_not_fit_goes_in_parts(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its windows are read in smaller groups."""
    tagger = CudaTagger(make_model())
    asked: Asked = [([*WORDS] * 20, 0)]
    expected = tag(tagger, asked)

    def emissions(original: Callable[[Tensor, int, int], Tensor], place: Tensor, rows: int, steps: int) -> Tensor:
        if rows > 2:
            raise torch.cuda.OutOfMemoryError("no memory")
        return original(place, rows, steps)

    wrap(monkeypatch, tagger._network, "emissions", emissions)
    assert_same(tag(tagger, asked), expected)


def test_candidates_that_do_not_fit_are_found_in_parts(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may also run out when entities off the best path are looked for."""
    tagger = CudaTagger(make_model())
    asked: Asked = [(words, 0.1) for words, _ in batch(12, 20, 9)]
    expected = tag(tagger, asked)

    def few(potentials: Potentials, least: Tensor) -> Candidates:
        if len(least) > 3:
            raise torch.cuda.OutOfMemoryError("no memory")
        return candidates(potentials, least)

    monkeypatch.setattr(nermodel.cuda, "candidates", few)
    assert_same(tag(tagger, asked), expected)


def test_a_sentence_that_does_not_fit_alone_raises_and_hurts_no_other(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the device's own, and the next batch is answered as ever."""
    tagger = CudaTagger(make_model())
    asked = batch(10, 5, 9)
    expected = tag(tagger, asked)
    with monkeypatch.context() as patch:
        wrap(patch, tagger._network, "emissions", out_of_memory)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            tag(tagger, asked)
    assert_same(tag(tagger, asked), expected)


def test_words_that_could_not_be_encoded_are_encoded_when_they_come_again(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure between naming new words and encoding them leaves no empty rows in the table."""
    model = make_model()
    tagger = CudaTagger(model)
    asked = batch(11, 5, 9)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "word_features", out_of_memory)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            tag(tagger, asked)
    assert_same(tag(tagger, asked), tag(TorchTagger(model), asked))


def test_a_shape_that_comes_again_is_recorded_and_replayed(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second time on one graph does the work, between places that stay; answers are the same."""
    tagger = CudaTagger(make_model())
    groups = [[(words[:7] or ["the"], 0) for words, _ in batch(seed, 8, 20)] for seed in range(6)]
    expected = [tag(tagger, asked) for asked in groups]
    replays = record_without_cuda(monkeypatch, tagger)
    for _ in range(2):
        for asked, answers in zip(groups, expected, strict=True):
            assert_same(tag(tagger, asked), answers)
    assert len(replays) == 2 * len(groups) - 1


def test_only_so_many_shapes_are_recorded(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs cost memory: when there are enough of them, other shapes run without."""
    tagger = CudaTagger(make_model())
    monkeypatch.setattr(nermodel.graphs, "GRAPHS", 2)
    replays = record_without_cuda(monkeypatch, tagger)
    for length in (1, 5, 9, 13) * 3:
        tagger.tag([["Mary"] * length], [None])
    assert len(replays) == 4


def test_graphs_give_way_when_memory_is_short(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded is dropped before a group is tried in parts, and recorded again later."""
    tagger = CudaTagger(make_model())
    replays = record_without_cuda(monkeypatch, tagger)
    asked: Asked = [(["Mary", "left"], None)] * 4
    for _ in range(2):
        tag(tagger, asked)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "word_features", out_of_memory)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            tag(tagger, [(["Oslo"], None)])
    assert len(replays) == 1
    tag(tagger, asked)
    assert len(replays) == 1
    tag(tagger, asked)
    assert len(replays) == 2


def test_work_that_cannot_be_recorded_runs_without(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so, and no further recording is tried."""
    tagger = CudaTagger(make_model())
    asked: Asked = [(["Mary", "left"], None)]
    expected = tag(tagger, asked)
    record_without_cuda(monkeypatch, tagger)
    tries: list[object] = []

    def captured(*arguments: object) -> None:
        tries.append(arguments)
        raise RuntimeError("operation not permitted\nwhen a stream is capturing")

    monkeypatch.setattr(Graphs, "_captured", captured)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert_same(tag(tagger, asked), expected)
    assert len(tries) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "CUDA graphs are not recorded from here on: operation not permitted"
    ]


def test_what_the_device_does_depends_on_no_data(make_model: MakeModel) -> None:
    """The network and the best paths run on tensors without values, so nothing makes the host wait to look at any."""
    tagger = CudaTagger(make_model(layers=2))
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        place = torch.empty((2 + 12) * 4, dtype=torch.int32)
        emissions = tagger._network.emissions(place, 4, 12)
        tags = tagger._decoded(emissions, place, False)
        with pytest.raises(DynamicOutputShapeException):  # which the kernel does without
            tagger._decoded(emissions, place, True)
    assert emissions.shape == (12, 4, len(tagger.model.tags))
    assert tags.shape == (48,)


def test_padding_is_written_nowhere() -> None:
    """Where rows' tags lie in any order, what follows a short row's tokens stays another's."""
    lengths = [3, 9, 1]
    potentials = random_potentials(1, lengths, tag_table("XY", "BIO"))
    tags, scores = torch.zeros(27, dtype=torch.uint8), torch.zeros(27)
    starts = torch.tensor([10, 1, 0], dtype=torch.int32)
    decode = TorchDecoder(potentials.start, potentials.transitions, potentials.end, 1.0)
    decode(potentials.emissions.transpose(0, 1), starts, torch.tensor(lengths, dtype=torch.int32), tags, scores)
    path = viterbi(*potentials)
    assert tags[:13].tolist() == [*path[2, :1].tolist(), *path[1].tolist(), *path[0, :3].tolist()]


@pytest.mark.parametrize("fault", ["", "raises", "tag", "score"])
def test_a_kernel_is_trusted_if_it_decodes_as_torch_does(
    make_model: MakeModel, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One that fails, or finds another tag or score, is named in the log, and torch decodes."""
    start, transitions, end = make_model().network.steps()
    plain = TorchDecoder(start, transitions, end, 1.5)

    class Kernel(TorchDecoder):
        def __call__(
            self, emissions: Tensor, starts: Tensor, lengths: Tensor, tags: Tensor, scores: Tensor | None
        ) -> None:
            super().__call__(emissions, starts, lengths, tags, scores)
            if fault == "raises":
                raise OSError("no compiler\nat hand")
            if fault == "tag":
                tags[50] ^= 1
            if fault == "score" and scores is not None:
                scores[scores.argmax()] -= 0.01

    found = trusted(lambda: Kernel(start, transitions, end, 1.5), plain, transitions)
    assert isinstance(found, Kernel) == (not fault)
    reason = "no compiler" if fault == "raises" else "it decodes otherwise than torch"
    expected = [f"decoding by torch, which is slower: the kernel failed: {reason}"] if fault else []
    assert [record.getMessage() for record in caplog.records] == expected


def wrap(patch: pytest.MonkeyPatch, owner: object, name: str, function: Callable[..., Any]) -> None:
    """Have a function in a method's place, with the method as its first argument."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *arguments: function(original, *arguments))


def out_of_memory(*_: object) -> Tensor:
    raise torch.cuda.OutOfMemoryError("no memory")


def record_without_cuda(patch: pytest.MonkeyPatch, tagger: CudaTagger) -> list[None]:
    """Let the tagger record on the CPU, where a graph's replay does the work again; it is noted in the list."""
    replays: list[None] = []

    def captured(_: Graphs, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        result = work()

        def replay() -> None:
            replays.append(None)
            result.copy_(work())

        return result.zero_(), replay

    patch.setattr(torch.cuda, "graph_pool_handle", object)
    patch.setattr(Graphs, "_captured", captured)
    stream: Any = SimpleNamespace(device=tagger.model.device)
    tagger._graphs = Graphs(stream)
    return replays


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[tuple[Model, Model]]:
    """The embedded model on the CPU and on the GPU."""
    yield load(DEFAULT, torch.device("cpu")), load(DEFAULT, torch.device("cuda"))
    torch.cuda.empty_cache()


def asked_corpus(seed: int, count: int) -> Asked:
    """Sentences of the example corpus, and what each is asked for."""
    rng = random.Random(seed)
    return [(words, rng.choice([None, 0, 0.1])) for words in rng.sample(corpus(), count)]


@needs_gpu
def test_a_gpu_gives_the_answers_of_the_cpu(on_gpu: tuple[Model, Model]) -> None:
    """Tags are the same and scores within 1e-4, also when the shapes come again and are replayed."""
    cpu, gpu = on_gpu
    tagger, asked = CudaTagger(gpu), asked_corpus(1, 1000)
    expected = tag(TorchTagger(cpu), asked)
    for _ in range(3):
        assert_same(tag(tagger, asked), expected, 1e-4)
    for one, answer in zip(asked[:100], expected, strict=False):
        assert_same(tag(tagger, [one]), [answer], 1e-4)


@needs_gpu
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_gpu_runs_any_model(make_model: MakeModel, scheme: Scheme, layers: int) -> None:
    """Other sizes, schemes and layers, strange words and long sentences are answered as on the CPU."""
    model = make_model(scheme=scheme, layers=layers)
    asked = [*batch(12, 150, 40), (list(WORDS) * 500, 0)]
    expected = tag(TorchTagger(model), asked)
    gpu = replace(model, network=model.network.to("cuda"), device=torch.device("cuda"))
    assert_same(tag(CudaTagger(gpu), asked), expected, 1e-4)


@needs_gpu
def test_float16_on_a_gpu_is_near(on_gpu: tuple[Model, Model]) -> None:
    """Of a thousand sentences at most a few have another tag than in float32."""
    cpu, gpu = on_gpu
    asked: Asked = [(words, 0) for words, _ in asked_corpus(2, 1000)]
    pairs = zip(tag(CudaTagger(gpu, "float16"), asked), tag(TorchTagger(cpu), asked), strict=True)
    assert sum(one.tags != other.tags for one, other in pairs) <= 5


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_waits_for_nothing_before_the_result(on_gpu: tuple[Model, Model]) -> None:
    """No operation between the copies makes the host wait, be the words new or known and the shape recorded or not."""
    tagger = CudaTagger(on_gpu[1])
    if isinstance(tagger._decode, TorchDecoder):
        pytest.skip("without Triton the host waits for scores")
    asked: Asked = [(words, 0) for words, _ in asked_corpus(3, 300)]
    tag(tagger, asked[:100])  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = tagger.submit([words for words, _ in asked], [ask for _, ask in asked])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tag(tagger, asked)  # records
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = tagger.submit([words for words, _ in asked], [ask for _, ask in asked])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(tagger.result(again), tagger.result(pending))


@needs_gpu
def test_a_gpu_records_graphs(on_gpu: tuple[Model, Model], caplog: pytest.LogCaptureFixture) -> None:
    """A shape's second batch is recorded, and later ones replayed."""
    tagger = CudaTagger(on_gpu[1])
    if tagger._graphs is None:
        pytest.skip("without Triton nothing is recorded")
    asked = [(words, None) for words, _ in asked_corpus(4, 64)]
    first = tag(tagger, asked)
    for _ in range(3):
        assert_same(tag(tagger, asked), first)
    assert len(tagger._graphs._graphs) == 1
    assert not caplog.records


@needs_gpu
def test_a_gpu_short_of_memory_goes_on(on_gpu: tuple[Model, Model]) -> None:
    """With room for a few dozen MB more than the model takes, a large batch is answered in parts."""
    tagger = CudaTagger(on_gpu[1])
    asked: Asked = [(words, 0) for words, _ in asked_corpus(5, 1000)]
    expected = tag(tagger, asked)
    tagger._release()
    total = torch.cuda.get_device_properties("cuda").total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (48 << 20)) / total)
        assert_same(tag(tagger, asked), expected, 1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
