"""The command as a process: what it writes, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shlex
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.client.conftest import Command, Server

LINES = "so Steve Jobs left\n\nIBM and Ada\n"


async def test_text(nerclient: Command) -> None:
    """Entities are marked in their line; an empty line stays one; nothing else is written."""
    run = await nerclient("tag", nerclient.file("a.txt", LINES))
    assert run.out == "so [Steve Jobs ORG] left\n\n[IBM ORG] and [Ada ORG]\n"
    assert (run.code, run.err) == (0, "")


async def test_text_with_scores(nerclient: Command) -> None:
    """--scores adds the probability to each mark."""
    assert (await nerclient("tag", "-", "--scores", stdin=b"so Ada")).out == "so [Ada ORG 0.50]\n"


async def test_jsonl(nerclient: Command) -> None:
    """Every line gives one object whose offsets count code points."""
    run = await nerclient("tag", "-", "--format", "jsonl", stdin="🙂 é Ada\n\n".encode())
    first, second = map(json.loads, run.out.splitlines())
    assert first == {
        "text": "🙂 é Ada",
        "entities": [{"start": 4, "end": 7, "label": "ORG", "text": "Ada"}],
        "model_version": "en/000001",
    }
    assert second == {"text": "", "entities": [], "model_version": "en/000001"}
    assert (run.code, run.err) == (0, "")


async def test_jsonl_of_tokens(nerclient: Command) -> None:
    """With --tokens the tokens are told and offsets count them."""
    run = await nerclient("tag", "-", "--tokens", "--scores", "-f", "jsonl", stdin=b" so  Ada\tByron \n")
    assert json.loads(run.out) == {
        "text": "so Ada Byron",
        "tokens": ["so", "Ada", "Byron"],
        "entities": [{"start": 1, "end": 3, "label": "ORG", "text": "Ada Byron", "score": 0.5}],
        "model_version": "en/000001",
    }


async def test_names_that_may_overlap(nerclient: Command) -> None:
    """--min-probability writes every name that is so probable, with scores; no other format can show them."""
    run = await nerclient("tag", "-", "--min-probability", "0.1", "-f", "jsonl", stdin=b"so Ada")
    assert json.loads(run.out)["entities"] == [
        {"start": 3, "end": 6, "label": "ORG", "text": "Ada", "score": 0.5},
        {"start": 3, "end": 6, "label": "MISC", "text": "Ada", "score": 0.25},
    ]
    for arguments in (["--min-probability", "0.1"], ["--min-probability", "0", "-f", "jsonl"]):
        refused = await nerclient("tag", "-", *arguments)
        assert (refused.code, refused.out) == (2, "")
        assert "--min-probability" in refused.err
        assert refused.err.count("\n") == 1


async def test_conll_from_text(nerclient: Command) -> None:
    """Each token stands with its tag on a line, and a blank line follows each document."""
    run = await nerclient("tag", "-", "--format", "conll", stdin=b"so Ada Byron\n\nhi\n")
    assert run.out == "so\tO\nAda\tB-ORG\nByron\tI-ORG\n\n\nhi\tO\n\n"


async def test_conll_columns_in_and_out(nerclient: Command) -> None:
    """Columns are read by their first, comments and -DOCSTART- skipped, hashtags and the last sentence kept."""
    content = "# comment\n-DOCSTART- -X- O\n\nso RB O\n#Ada NN O\n# a longer comment\n\n\nAda NN O\nByron NN O"
    run = await nerclient("tag", nerclient.file("a.conll", content), "--conll", "-f", "conll")
    assert run.out == "so\tO\n#Ada\tO\n\nAda\tB-ORG\nByron\tI-ORG\n\n"
    assert (run.code, run.err) == (0, "")


async def test_conll_with_tabs_and_crlf(nerclient: Command) -> None:
    """Tab-separated words may hold spaces, and a first line may begin with a hash."""
    run = await nerclient("tag", "-", "--conll", "-f", "conll", stdin=b"#x\tO\r\nNew York\tO\r\n\r\nso\tO\r\n")
    assert run.out == "#x\tO\nNew York\tB-PER\n\nso\tO\n\n"


async def test_conll_with_wrong_columns(nerclient: Command) -> None:
    """A sentence with a line of other columns is named by that line, and its neighbours are answered."""
    content = b"so O\nAda O\n\nso O\nlost\n\nAda O\n"
    run = await nerclient("tag", "-", "--conll", stdin=content)
    assert run.out == "so [Ada ORG]\n\n[Ada ORG]\n"
    assert run.err.splitlines() == [
        "nerclient: stdin:5: it has 1 of the 2 columns that the file began with; make them equal",
        "nerclient: 1 of 3 documents failed, each named above",
    ]
    assert run.code == 1


async def test_conll_without_a_word(nerclient: Command) -> None:
    """A line whose first column is empty spoils its sentence and no other."""
    run = await nerclient("tag", "-", "--conll", stdin=b"so\tO\n\tO\n\nAda\tO\n")
    assert run.out == "\n[Ada ORG]\n"
    assert run.err.startswith("nerclient: stdin:2: its first column, the word, is empty")


async def test_line_ends_and_byte_order_mark(nerclient: Command) -> None:
    """LF and CRLF end lines, nothing else does, and a byte order mark is dropped."""
    content = b"\xef\xbb\xbfAda\r\nso\xe2\x80\xa8Ada\x0b\x0c\x1c\xc2\x85Bo\rBo\nAda\r"
    run = await nerclient("tag", "-", "-f", "jsonl", stdin=content)
    texts = [json.loads(line)["text"] for line in run.out.split("\n") if line]
    assert texts == ["Ada", "so\u2028Ada\x0b\x0c\x1c\x85Bo\rBo", "Ada\r"]


@pytest.mark.parametrize("options", [["-f", "text"], ["-f", "jsonl", "--tokens"], ["-f", "conll", "--conll"]])
async def test_an_empty_file(nerclient: Command, options: list[str]) -> None:
    """Nothing in, nothing out, and no complaint."""
    run = await nerclient("tag", nerclient.file("empty", ""), *options)
    assert (run.code, run.out, run.err) == (0, "", "")


async def test_several_files_keep_their_order(nerclient: Command) -> None:
    """Files are answered one after the other, standard input among them."""
    one, two = nerclient.file("one", "Ada"), nerclient.file("two", "Bo\n")
    assert (await nerclient("tag", one, "-", two, stdin=b"Cy\n")).out == "[Ada ORG]\n[Cy PER]\n[Bo PER]\n"


async def test_a_long_file_keeps_its_lines(nerclient: Command, server: Server) -> None:
    """Five thousand lines give five thousand answers in their places, over streams that break."""
    server.tagger.breaks = [3, 0, 5]
    content = "".join(f"so Name{i}\n" if i % 7 else "\n" for i in range(5000))
    run = await nerclient("tag", nerclient.file("long", content), "-f", "jsonl")
    assert run.out.count("\n") == 5000
    texts = [json.loads(line)["text"] for line in run.out.split("\n")[:-1]]
    assert texts == content.split("\n")[:-1]
    assert (run.code, run.err) == (0, "")


async def test_bad_lines_keep_their_places(nerclient: Command) -> None:
    """Invalid UTF-8, a refused line and a line over a limit are named by place; their neighbours are answered."""
    content = b"Ada\nso \xff\nPOISON\nAda\n" + b"x" * 60_000 + b"\nAda\n"
    run = await nerclient("tag", nerclient.file("bad.txt", content))
    assert run.out == "[Ada ORG]\n\n\n[Ada ORG]\n\n[Ada ORG]\n"
    assert run.err.splitlines() == [
        "nerclient: bad.txt:2: invalid UTF-8 at byte 4; convert the file to UTF-8",
        "nerclient: bad.txt:3: over max_sentence_tokens of 1000: split it",
        "nerclient: bad.txt:5: 60,000 bytes are over the server's max_text_bytes of 50,000: split the input",
        "nerclient: 3 of 6 documents failed, each named above",
    ]
    assert run.code == 1


async def test_bad_lines_in_jsonl(nerclient: Command) -> None:
    """A line that fails has an object with its reason; its text is null where it cannot be decoded."""
    run = await nerclient("tag", "-", "-f", "jsonl", "--tokens", stdin=b"\xff\nso POISON\n")
    assert [json.loads(line) for line in run.out.splitlines()] == [
        {"text": None, "error": "invalid UTF-8 at byte 1; convert the file to UTF-8"},
        {
            "text": "so POISON",
            "tokens": ["so", "POISON"],
            "error": "over max_sentence_tokens of 1000: split it",
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tag", "no-such.txt"], 1, "no-such.txt: no such file"),
        (["tag", "folder"], 1, "folder: is a directory"),
        (["tag", "locked.txt"], 1, "locked.txt: permission denied"),
        (["tag", "binary"], 1, "binary: is a binary file"),
        (["tag", "a.txt", "--address", "127.0.0.1:1"], 3, "no server listens at 127.0.0.1:1"),
        (["tag", "a.txt", "--address", "no-such-host.invalid:50051"], 3, "host name in no-such-host.invalid:50051"),
        (["tag", "a.txt", "--address", "127.0.0.1:99999"], 2, "port from 1 to 65535"),
        (["tag", "a.txt", "--address", "127.0.0.1"], 2, "an address is HOST:PORT"),
        (["tag", "a.txt", "--format", "xml"], 2, "'xml' is not one of"),
        (["tag", "a.txt", "--tokens", "--conll"], 2, "--tokens and --conll exclude each other"),
        (["tag", "a.txt", "--fromat", "text"], 2, "No such option: --fromat"),
        (["tag"], 2, "Missing argument"),
        (["tga"], 2, "No such command 'tga'"),
        ([], 2, "Missing command"),
        (["health", "--address", "127.0.0.1:1"], 3, "no server listens at 127.0.0.1:1"),
        (["health", "--wait", "soon"], 2, "Invalid value for '--wait'"),
        (["model", "--address", "127.0.0.1:1"], 3, "no server listens at 127.0.0.1:1"),
    ],
)
async def test_one_line_for_one_mistake(nerclient: Command, arguments: list[str], code: int, words: str) -> None:
    """A mistake is one line on standard error that says what is wrong, and an exit code; nothing is written."""
    nerclient.file("a.txt", "Ada\n")
    nerclient.file("binary", b"\x7fELF\x00\x00")
    (nerclient.folder / "folder").mkdir()
    (nerclient.folder / nerclient.file("locked.txt", "Ada\n")).chmod(0)
    if "locked.txt" in arguments and os.access(nerclient.folder / "locked.txt", os.R_OK):
        pytest.skip("this user may read everything")
    run = await nerclient(*arguments)
    assert run.err.startswith("nerclient: ")
    assert run.err.count("\n") == 1
    assert words in run.err
    assert (run.code, run.out) == (code, "")


async def test_a_bad_file_does_not_spoil_the_others(nerclient: Command) -> None:
    """A file that cannot be read is named, and the other files are answered."""
    run = await nerclient("tag", "missing", nerclient.file("a.txt", "Ada\n"), nerclient.file("b", b"\0"))
    assert run.out == "[Ada ORG]\n"
    assert len(run.err.splitlines()) == 2
    assert run.code == 1


async def test_binary_standard_input(nerclient: Command) -> None:
    """Binary data from a pipe is refused as a whole."""
    run = await nerclient("tag", "-", stdin=b"abc\n\0\n")
    assert run.err == "nerclient: -: is a binary file or UTF-16, not text; give UTF-8 text\n"
    assert (run.code, run.out) == (1, "")


async def test_a_server_that_dies_for_good(nerclient: Command, server: Server) -> None:
    """What was answered is written, and one line says why there is no more."""
    process = await nerclient.start("tag", "-")
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(b"Ada\n")
    assert await process.stdout.readline() == b"[Ada ORG]\n"
    server.tagger.broken, server.tagger.breaks = server.tagger.broken.INTERNAL, [1]
    await server.stop()
    process.stdin.write(b"Ada\n")
    await process.stdin.drain()
    server.tagger.streams, server.tagger.breaks = 0, [0]
    await server.start()
    out, err = await process.communicate()
    assert (out, err.decode()) == (b"", "nerclient: broken on purpose\n")
    assert process.returncode == 3


async def test_every_line_is_answered_as_it_comes(nerclient: Command) -> None:
    """A line is answered before the next one is written, as behind `tail -f`."""
    process = await nerclient.start("tag", "-", "-f", "jsonl")
    assert process.stdin
    assert process.stdout
    for name in ["Ada", "Bo", "Cy"]:
        process.stdin.write(f"{name}\n".encode())
        answer = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert answer["text"] == name
    process.stdin.close()
    assert await process.wait() == 0


async def test_a_reader_that_leaves_early(nerclient: Command) -> None:
    """When standard output is closed, as by `| head`, the command ends without a word."""
    read_end, write_end = os.pipe()
    path = nerclient.file("long", "Ada\n" * 100_000)
    process = await asyncio.create_subprocess_exec(
        *nerclient.arguments("tag", path), **nerclient.options, stdout=write_end, stderr=asyncio.subprocess.PIPE
    )
    os.close(write_end)
    first = await asyncio.to_thread(os.read, read_end, 10)
    os.close(read_end)
    _, err = await process.communicate()
    assert (process.returncode, first, err) == (0, b"[Ada ORG]\n", b"")


async def test_a_full_disk(nerclient: Command) -> None:
    """Output that cannot be written is one line and a failure."""
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230
        process = await asyncio.create_subprocess_exec(
            *nerclient.arguments("tag", nerclient.file("a.txt", "Ada\n")),
            **nerclient.options,
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
    _, err = await process.communicate()
    assert err.decode() == "nerclient: cannot write the output: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("redirection", "said", "code"),
    [
        (">&-", "standard output is closed; redirect it to a file or /dev/null", 1),
        ("<&-", "-: is closed; give a file or a pipe", 1),
        ("--help >/dev/full", "cannot write the output: No space left on device", 1),
    ],
)
async def test_closed_ends(nerclient: Command, redirection: str, said: str, code: int) -> None:
    """A standard stream that is closed or full is one line and a failure, not a traceback."""
    line = shlex.join(map(str, nerclient.arguments("tag", "-")))
    process = await asyncio.create_subprocess_shell(
        f"{line} {redirection}", **nerclient.options, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert (err.decode(), process.returncode) == (f"nerclient: {said}\n", code)


async def test_interrupted(nerclient: Command) -> None:
    """Ctrl-C while it waits for input ends it with 130, without a word."""
    process = await nerclient.start("tag", "-")
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"Ada\n")
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.wait(), 20)
    assert process.stderr
    assert (process.returncode, await process.stderr.read()) == (130, b"")


@pytest.mark.parametrize(("no_color", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_on_a_terminal(nerclient: Command, no_color: dict[str, str], coloured: bool) -> None:
    """On a terminal names are coloured, unless NO_COLOR is set."""
    terminal, its_end = pty.openpty()
    options = nerclient.options
    options["env"] = {**options["env"], "TERM": "xterm", **no_color}
    process = await asyncio.create_subprocess_exec(
        *nerclient.arguments("tag", nerclient.file("a.txt", "so Ada\n")), **options, stdout=its_end
    )
    os.close(its_end)
    assert await process.wait() == 0
    shown = os.read(terminal, 1000).decode()
    os.close(terminal)
    assert "[Ada ORG]" in shown
    assert ("\x1b[" in shown) == coloured


async def test_progress_on_a_terminal(nerclient: Command) -> None:
    """When only standard error is a terminal and input is a file, it shows how far the work is."""
    terminal, its_end = pty.openpty()
    options = nerclient.options
    options["env"] = {**options["env"], "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        *nerclient.arguments("tag", nerclient.file("a.txt", "so Ada\n")),
        **options,
        stdout=asyncio.subprocess.PIPE,
        stderr=its_end,
    )
    os.close(its_end)
    out, _ = await process.communicate()
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert out == b"so [Ada ORG]\n"
    assert "1 documents" in shown


async def test_health(nerclient: Command, server: Server) -> None:
    """A server that serves is SERVING with 0, one that does not is named with 3."""
    run = await nerclient("health")
    assert (run.code, run.out, run.err) == (0, "SERVING\n", "")
    await server.set_health("NOT_SERVING")
    run = await nerclient("health")
    assert (run.code, run.out) == (3, "")
    assert run.err == f"nerclient: the server at {server.address} is NOT_SERVING\n"


async def test_health_waits(nerclient: Command, server: Server) -> None:
    """With --wait it outlasts a server that is away and then not ready, and gives up in time on one that stays so."""
    await server.set_health("NOT_SERVING")
    waiting = asyncio.create_task(nerclient("health", "--wait", "30"))
    gave_up = await nerclient("health", "--wait", "0.1")
    assert (gave_up.code, gave_up.out) == (3, "")
    assert "is NOT_SERVING (waited 0.1 s)" in gave_up.err
    assert not waiting.done()
    await server.stop()
    await server.start()
    assert (await waiting).out == "SERVING\n"


async def test_model(nerclient: Command) -> None:
    """The model is described for people, and with --json for programs."""
    run = await nerclient("model")
    assert "version              en/000001" in run.out
    assert "dev_f1               0.5000" in run.out
    assert "max_text_bytes       50,000" in run.out
    described = json.loads((await nerclient("model", "--json")).out)
    assert described["version"] == "en/000001"
    assert described["create_time"] == "2026-01-02T03:04:05+00:00"
    assert described["limits"]["max_inputs"] == 64


@pytest.mark.parametrize("command", [[], ["tag"], ["health"], ["model"], ["admin"], ["admin", "pin"]])
async def test_help(nerclient: Command, command: list[str]) -> None:
    """Every command explains itself."""
    run = await nerclient(*command, "--help")
    assert run.out.startswith(" ".join(["Usage: nerclient", *command]))
    assert (run.code, run.err) == (0, "")


async def test_help_does_not_wait_for_grpc(nerclient: Command) -> None:
    """--help imports neither grpc nor rich."""
    code = (
        "import sys, nerclient.cli as c; sys.argv[1:] = ['tag', '--help']\ntry: c.main()\nfinally: print(*sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(
        nerclient.arguments()[0], "-c", code, **nerclient.options, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    modules = out.decode().splitlines()[-1].split()
    assert "typer" in modules
    assert not {"grpc", "google.protobuf", "rich.console"} & set(modules)
