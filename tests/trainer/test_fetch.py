"""Fetching known corpora, against a server that misbehaves in every way it can."""

import hashlib
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.trainer.conftest import Command

from nertrainer.commands.fetch import fetch_corpora
from nertrainer.fetch import FetchError, fetch
from nertrainer.known import CORPORA, KnownCorpus, Part

CONTENT = random.Random(1).randbytes(200_000)
OTHER = random.Random(2).randbytes(200_000)
ETAG = '"one"'
ROOT = Path(__file__).parents[2]
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Leaves the answer to the server's script."""

    server: "Publisher"

    def do_GET(self) -> None:
        self.server.asked.append(self.headers)
        self.server.paths.append(self.path)
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes, headers: dict[str, str | int]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


class Publisher(ThreadingHTTPServer):
    """A server of one file that gives its answers in turn, the last one for ever, and notes what it was asked."""

    daemon_threads = False  # so that closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [whole]
        self.asked: list[Message] = []
        self.paths: list[str] = []
        self.sent = threading.Event()  # by `stall`: what it sends is out
        self.release = threading.Event()  # ends every `stall`

    @property
    def part(self) -> Part:
        return published(f"http://127.0.0.1:{self.server_port}/corpus/first.conll")

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is part of the tests


def whole(handler: Handler, content: bytes = CONTENT, etag: str = ETAG) -> None:
    """As a good server does: a part if that is asked for and the file is still the same, else the whole."""
    asked = handler.headers["Range"]
    if asked and handler.headers["If-Range"] == etag:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        tail = content[start:]
        handler.reply(206, tail, {"Content-Length": len(tail), "Content-Range": where, "ETag": etag})
    else:
        handler.reply(200, content, {"Content-Length": len(content), "ETag": etag})


def send(
    handler: Handler, status: int = 200, body: bytes = CONTENT, length: int | None = None, **headers: str | int
) -> None:
    """Any answer; `length` is what it says of its length."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    handler.reply(status, body, {"Content-Length": len(body) if length is None else length, **names})


def cut(handler: Handler, after: int = 80_000, etag: str = ETAG) -> None:
    """Hangs up in the middle."""
    handler.reply(200, CONTENT[:after], {"Content-Length": len(CONTENT), **({"ETag": etag} if etag else {})})


def stall(handler: Handler, after: int = 80_000) -> None:
    """Falls silent in the middle, and goes on when released."""
    handler.reply(200, CONTENT[:after], {"Content-Length": len(CONTENT), "ETag": ETAG})
    handler.server.sent.set()
    handler.server.release.wait(30)
    handler.wfile.write(CONTENT[after:])


def mute(handler: Handler) -> None:
    """Says nothing at all."""
    handler.server.release.wait(30)


def hang_up(handler: Handler) -> None:
    """Closes without an answer."""


def babble(handler: Handler) -> None:
    """Answers something that is not HTTP."""
    handler.wfile.write(b"hello\r\n\r\n")


def redirect(handler: Handler, to: str) -> None:
    """Sends the asker elsewhere."""
    handler.reply(302, b"", {"Location": to, "Content-Length": 0})


@contextmanager
def running(server: Publisher) -> Iterator[Publisher]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A running publisher."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running(Publisher()) as publisher:
        yield publisher


def published(address: str) -> Part:
    return Part("train.txt", address, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def get(part: Part, folder: Path, source: Path | None = None, timeout_s: float = 10) -> str:
    return fetch(part, folder, source, lambda _: None, timeout_s)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def child(script: str, part: Part, folder: Path, before: str = "") -> subprocess.Popen[str]:
    """A process with `part` and `folder` defined that says its FetchError as the command does."""
    lines = (
        "import sys",
        "from pathlib import Path",
        "from nertrainer.fetch import FetchError, fetch",
        "from nertrainer.known import Part",
        f"part, folder = {part!r}, Path({str(folder)!r})",
        before,
        "try:",
        f"    {script}",
        "except FetchError as error:",
        "    sys.exit(str(error))",
    )
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_file_comes_byte_for_byte_and_alone(server: Publisher, tmp_path: Path) -> None:
    """After a download there is the file and nothing beside it, and the watcher has seen it grow to its size."""
    seen: list[int] = []
    assert fetch(server.part, tmp_path / "wnut17", None, seen.append) == "downloaded"
    assert (tmp_path / "wnut17" / "train.txt").read_bytes() == CONTENT
    assert files(tmp_path / "wnut17") == ["train.txt"]
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


def test_a_good_copy_is_left_alone(server: Publisher, tmp_path: Path) -> None:
    """A second fetch says that the file is there and neither asks the server nor touches it."""
    get(server.part, tmp_path)
    before = (tmp_path / "train.txt").stat()
    assert get(server.part, tmp_path) == "already there"
    assert (tmp_path / "train.txt").stat() == before
    assert len(server.asked) == 1


@pytest.mark.parametrize("mine", [b"", b"mine", OTHER])
def test_another_file_of_the_name_is_never_overwritten(server: Publisher, tmp_path: Path, mine: bytes) -> None:
    """Whatever is there under the name stays, and the error says what to do."""
    (tmp_path / "train.txt").write_bytes(mine)
    with pytest.raises(FetchError, match=r"train.txt: is there and is not the published file; move it away, or"):
        get(server.part, tmp_path)
    assert (tmp_path / "train.txt").read_bytes() == mine
    assert files(tmp_path) == ["train.txt"]
    assert server.asked == []


def test_a_broken_download_goes_on_where_it_ended(server: Publisher, tmp_path: Path) -> None:
    """The bytes had stay beside, not under the name, and the next fetch asks for the rest of the same file only."""
    server.answers = [cut, whole]
    with pytest.raises(FetchError, match=r"train.txt: broke off at 80,000 of 200,000 bytes .*; run again to go on"):
        get(server.part, tmp_path)
    assert files(tmp_path) == ["train.txt.partial", "train.txt.partial.etag"]
    assert get(server.part, tmp_path) == "downloaded from byte 80,000 on"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert files(tmp_path) == ["train.txt"]
    assert server.asked[1]["Range"] == "bytes=80000-"
    assert server.asked[1]["If-Range"] == ETAG


def test_a_download_may_break_again_and_again(server: Publisher, tmp_path: Path) -> None:
    """Each attempt adds to what the ones before it had."""

    def crumb(handler: Handler) -> None:
        start = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        where = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        status, rest = (206, {"Content-Range": where}) if start else (200, {})
        handler.reply(
            status, CONTENT[start : start + 50_000], {"Content-Length": len(CONTENT) - start, "ETag": ETAG, **rest}
        )

    server.answers = [crumb]
    for have in (50_000, 100_000, 150_000):
        with pytest.raises(FetchError, match=f"broke off at {have:,}"):
            get(server.part, tmp_path)
    assert get(server.part, tmp_path) == "downloaded from byte 150,000 on"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "second",
    [
        partial(send, ETag=ETAG),  # ignores Range
        partial(whole, etag='"two"'),  # has changed
        partial(send, status=416, body=b""),
        partial(send, status=206, body=CONTENT[10:], Content_Range="bytes 10-199999/200000"),
        partial(send, status=206, body=CONTENT[80_000:-5], Content_Range="bytes 80000-199994/199995"),
        partial(send, status=206, body=CONTENT[80_000:]),  # does not say which part
        partial(send, status=206, body=OTHER[80_000:], Content_Range="bytes 80000-199999/200000"),  # of another
        partial(send, status=200, body=b"log in"),
    ],
)
def test_what_cannot_be_gone_on_with_is_begun_again(server: Publisher, tmp_path: Path, second: Answer) -> None:
    """A server that ignores, refuses or mistakes the Range, or has another file now, costs time and nothing else."""
    server.answers = [cut, second, whole]
    with pytest.raises(FetchError, match="broke off"):
        get(server.part, tmp_path)
    assert get(server.part, tmp_path) == "downloaded"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert files(tmp_path) == ["train.txt"]


@pytest.mark.parametrize("etag", ["", 'W/"one"', "one", '"o\x80ne"'])
def test_without_a_strong_etag_it_begins_again(server: Publisher, tmp_path: Path, etag: str) -> None:
    """Bytes that cannot be told to be of the same file are not added to."""
    server.answers = [partial(cut, etag=etag), whole]
    with pytest.raises(FetchError, match="broke off"):
        get(server.part, tmp_path)
    assert get(server.part, tmp_path) == "downloaded"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert server.asked[1]["Range"] is None


@pytest.mark.parametrize("left", [OTHER[:80_000], OTHER, OTHER * 2])
def test_a_damaged_partial_file_heals(server: Publisher, tmp_path: Path, left: bytes) -> None:
    """Wrong bytes left by a crash, too few, enough or too many, do not stand in the way."""
    (tmp_path / "train.txt.partial").write_bytes(left)
    (tmp_path / "train.txt.partial.etag").write_text(ETAG)
    assert get(server.part, tmp_path) == "downloaded"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert files(tmp_path) == ["train.txt"]


def test_a_whole_partial_file_needs_no_server(server: Publisher, tmp_path: Path) -> None:
    """Killed after the last byte and before the renaming, the next fetch has but to rename."""
    (tmp_path / "train.txt.partial").write_bytes(CONTENT)
    assert get(server.part, tmp_path) == "downloaded"
    assert files(tmp_path) == ["train.txt"]
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (partial(send, body=OTHER), "what came is not the published file"),
        (partial(send, body=CONTENT[:-1] + b"x"), "what came is not the published file"),
        (partial(send, status=404, body=b"no"), "answers 404 Not Found"),
        (partial(send, status=500, body=b"no"), "answers 500 Internal Server Error"),
        (partial(send, status=204, body=b""), "answers 204 without the 200,000 bytes"),
        (partial(send, status=206), "answers 206 without"),
        (partial(send, body=b"log in"), "answers 200 without the 200,000 bytes"),
        (partial(send, length=200_001), "answers 200 without"),
        (partial(send, length=150_000), "answers 200 without"),
        (partial(redirect, to="/corpus/first.conll"), "redirects without end"),
        (partial(redirect, to="ftp://127.0.0.1/train.txt"), "redirects to ftp, which is not safe"),
        (partial(redirect, to="file:///etc/passwd"), "or to no web address"),
        (hang_up, "cannot be reached"),
        (babble, "cannot be reached (it does not speak HTTP"),
        (mute, "cannot be reached (timed out)"),
    ],
)
def test_an_answer_of_no_use_leaves_nothing(server: Publisher, tmp_path: Path, answer: Answer, message: str) -> None:
    """The error is one line that says why and names --from, and the folder is as empty as before."""
    server.answers = [answer]
    with pytest.raises(FetchError, match=re.escape(message)) as error:
        get(server.part, tmp_path, timeout_s=0.2)
    assert "--from DIR" in str(error.value)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize("answer", [partial(send, body=b"log in"), partial(send, status=503), hang_up])
def test_a_bad_answer_keeps_what_was_had(server: Publisher, tmp_path: Path, answer: Answer) -> None:
    """An outage between two attempts does not throw away the bytes of the first."""
    server.answers = [cut, answer]
    for _ in range(2):
        with pytest.raises(FetchError):
            get(server.part, tmp_path)
    server.answers = [whole]
    assert get(server.part, tmp_path) == "downloaded from byte 80,000 on"


def test_a_server_without_a_length_will_do(server: Publisher, tmp_path: Path) -> None:
    """The size is known beforehand, so no Content-Length is needed and no more bytes than that are read."""
    server.answers = [lambda handler: handler.reply(200, CONTENT + OTHER, {})]
    assert get(server.part, tmp_path) == "downloaded"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


def test_a_server_that_stalls_is_given_up(server: Publisher, tmp_path: Path) -> None:
    """Silence in the middle ends in a timeout, and what came before it is kept."""
    server.answers = [stall, whole]
    with pytest.raises(FetchError, match=r"broke off at 80,000 of 200,000 bytes \(timed out\)"):
        get(server.part, tmp_path, timeout_s=0.2)
    assert get(server.part, tmp_path) == "downloaded from byte 80,000 on"


def test_redirects_are_followed_with_the_range(server: Publisher, tmp_path: Path) -> None:
    """Another place may have the file; the Range goes there too."""
    hops = [partial(redirect, to="/two"), partial(redirect, to=f"http://127.0.0.1:{server.server_port}/three")]
    server.answers = [*hops, cut, *hops, whole]
    with pytest.raises(FetchError, match="broke off"):
        get(server.part, tmp_path)
    assert get(server.part, tmp_path) == "downloaded from byte 80,000 on"
    assert server.paths == ["/corpus/first.conll", "/two", "/three"] * 2
    assert server.asked[-1]["Range"] == "bytes=80000-"


def test_many_redirects_are_too_many(server: Publisher, tmp_path: Path) -> None:
    """Redirects that never repeat are bounded all the same."""

    def further(handler: Handler) -> None:
        redirect(handler, f"{handler.path}/x")

    server.answers = [further]
    with pytest.raises(FetchError, match="redirects without end"):
        get(server.part, tmp_path)
    assert len(server.asked) < 10


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https_is_checked_and_not_left(server: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for is refused, and so is a redirect from https to http."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    for_loopback = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", *made.split(), *for_loopback, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
        timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = Publisher()
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    with running(secure):
        part = published(f"https://127.0.0.1:{secure.server_port}/train.conll")
        with pytest.raises(FetchError, match=r"cannot be reached \(.*CERTIFICATE_VERIFY_FAILED"):
            get(part, tmp_path / "data")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        secure.answers = [partial(redirect, to=server.part.address), whole]
        with pytest.raises(FetchError, match="redirects to http, which is not safe"):
            get(part, tmp_path / "data")
        assert server.asked == []
        assert get(part, tmp_path / "data") == "downloaded"


def test_killed_in_the_middle_the_next_goes_on(server: Publisher, tmp_path: Path) -> None:
    """SIGKILL leaves no file under the name and no lock, and no byte is asked for twice."""
    server.answers = [stall, whole]
    with child("fetch(part, folder, None, lambda done: print(done, flush=True))", server.part, tmp_path) as process:
        assert process.stdout
        have = next(int(line) for line in process.stdout if int(line) == 80_000)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    assert files(tmp_path) == ["train.txt.partial", "train.txt.partial.etag"]
    assert get(server.part, tmp_path) == "downloaded from byte 80,000 on"
    assert server.asked[1]["Range"] == f"bytes={have}-"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


def test_a_second_fetch_stands_back(server: Publisher, tmp_path: Path) -> None:
    """While one process downloads, another is told so and touches nothing; the first one ends well."""
    server.answers = [stall]
    with child("print(fetch(part, folder, None, lambda done: None))", server.part, tmp_path) as process:
        assert server.sent.wait(20)
        with pytest.raises(FetchError, match=r"train.txt: another fetch is at work on it; let it end, then run again"):
            get(server.part, tmp_path)
        server.release.set()
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("downloaded\n", "", 0)
    assert (tmp_path / "train.txt").read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("meanwhile", "said"), [("rename(folder / 'train.txt')", "already there"), ("unlink()", "downloaded")]
)
def test_a_fetch_that_ends_just_before_the_lock_does_no_harm(
    server: Publisher, tmp_path: Path, meanwhile: str, said: str
) -> None:
    """Another fetch that renames or drops the partial file between our opening and our locking it is noticed."""
    source = tmp_path / "content"
    source.write_bytes(CONTENT)
    before = (
        "calls = []\n"
        "def hook(event, _):\n"
        "    if event == 'fcntl.flock' and not calls:\n"
        "        calls.append(event)\n"
        "        other = folder / 'train.txt.partial'\n"
        f"        other.write_bytes(Path({str(source)!r}).read_bytes())\n"
        f"        other.{meanwhile}\n"
        "sys.addaudithook(hook)"
    )
    folder = tmp_path / "wnut17"
    with child("print(fetch(part, folder, None, lambda done: None))", server.part, folder, before) as process:
        assert process.communicate(timeout=20) == (f"{said}\n", "")
    assert (folder / "train.txt").read_bytes() == CONTENT
    assert files(folder) == ["train.txt"]


def test_many_fetches_at_once_make_one_good_file(server: Publisher, tmp_path: Path) -> None:
    """However they meet, each ends well or stands back, and the file is whole as soon as it has its name."""

    def attempt(folder: Path) -> str:
        try:
            how = get(server.part, folder)
        except FetchError as error:
            return str(error)
        assert (folder / "train.txt").read_bytes() == CONTENT
        return how

    with ThreadPoolExecutor(8) as pool:
        for turn in range(3):
            folder = tmp_path / str(turn)
            outcomes = list(pool.map(attempt, [folder] * 8))
            assert outcomes.count("downloaded") == 1
            assert all(how in ("downloaded", "already there") or "another fetch" in how for how in outcomes)
            assert files(folder) == ["train.txt"]
            assert (folder / "train.txt").read_bytes() == CONTENT


def test_a_full_disk_gets_one_line_and_the_rest_comes_later(server: Publisher, tmp_path: Path) -> None:
    """Where no more can be written the error says so; with room again the download goes on."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000,) * 2); fetch(part, folder, None, print)"
    )
    with child(script, server.part, tmp_path) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err == f"{tmp_path}/train.txt: File too large at 90,000 of 200,000 bytes; make room, then run again\n"
    assert get(server.part, tmp_path) == "downloaded from byte 90,000 on"
    assert (tmp_path / "train.txt").read_bytes() == CONTENT


def test_a_folder_that_may_not_be_written_is_named(server: Publisher, tmp_path: Path) -> None:
    """The error names the path, and the server is not asked in vain."""
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write anywhere")
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        get(server.part, tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("place", ["", "train.txt", "train.txt.partial"])
def test_what_stands_in_the_way_stays(server: Publisher, tmp_path: Path, place: str) -> None:
    """A file in the folder's place, or a folder in a file's, is named and left as it is; nobody is asked."""
    folder = tmp_path / "wnut17"
    if place:
        (folder / place).mkdir(parents=True)
    else:
        folder.write_bytes(b"mine")
    with pytest.raises((FetchError, NotADirectoryError, IsADirectoryError), match="wnut17"):
        get(server.part, folder)
    assert (folder / place).is_dir() if place else folder.read_bytes() == b"mine"
    assert server.asked == []


@pytest.mark.parametrize("place", ["wnut17/train.txt", "wnut17/first.conll", "first.conll", "train.txt"])
def test_from_takes_the_file_under_either_name(server: Publisher, tmp_path: Path, place: str) -> None:
    """In the folder or in a subfolder of the corpus's name, as here or as published; no server is asked."""
    source = tmp_path / "usb" / place
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    assert get(server.part, tmp_path / "data" / "wnut17", tmp_path / "usb") == f"copied from {source}"
    assert (tmp_path / "data" / "wnut17" / "train.txt").read_bytes() == CONTENT
    assert source.read_bytes() == CONTENT
    assert files(tmp_path / "data" / "wnut17") == ["train.txt"]
    assert server.asked == []


def test_from_passes_over_a_file_that_only_has_the_name(server: Publisher, tmp_path: Path) -> None:
    """Another corpus's train.txt does not hide the right one."""
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "first.conll").write_bytes(OTHER)
    (tmp_path / "usb" / "train.txt").write_bytes(CONTENT)
    get(server.part, tmp_path / "wnut17", tmp_path / "usb")
    assert (tmp_path / "wnut17" / "train.txt").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [None, b"", CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x"])
def test_from_wants_the_published_bytes(server: Publisher, tmp_path: Path, content: bytes | None) -> None:
    """A missing or a corrupt file is named with the address that has the right one; nothing is left behind."""
    (tmp_path / "usb").mkdir()
    if content is not None:
        (tmp_path / "usb" / "train.txt").write_bytes(content)
    cause = "has neither wnut17/train.txt nor wnut17/first.conll" if content is None else "its SHA-256 is not that"
    with pytest.raises(FetchError, match=cause) as error:
        get(server.part, tmp_path / "wnut17", tmp_path / "usb")
    assert server.part.address in str(error.value)
    assert files(tmp_path / "wnut17") == []


def test_from_finishes_a_broken_download(server: Publisher, tmp_path: Path) -> None:
    """What was left of a download is written over, not added to."""
    server.answers = [cut]
    (tmp_path / "train.txt").write_bytes(CONTENT)
    with pytest.raises(FetchError, match="broke off"):
        get(server.part, tmp_path / "wnut17")
    get(server.part, tmp_path / "wnut17", tmp_path)
    assert (tmp_path / "wnut17" / "train.txt").read_bytes() == CONTENT
    assert files(tmp_path / "wnut17") == ["train.txt"]


def test_the_command_prints_paths_and_says_the_terms(
    server: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paths go to stdout; the licence, how to cite and what was done to stderr."""
    corpora = {"wnut17": KnownCorpus("Some text", "CC BY 4.0", "Somebody 2017", (server.part,))}
    for how in ("downloaded", "already there"):
        fetch_corpora(corpora, ["wnut17"], tmp_path)
        out, err = capsys.readouterr()
        path = tmp_path / "wnut17" / "train.txt"
        assert out == f"{path}\n"
        assert err == (
            f"wnut17: Some text; licence CC BY 4.0; cite Somebody 2017\n{path}: {how}, SHA-256 as published\n"
        )


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["wnut18"], "wnut18: expected wnut17, btc, wikigold, uner-ewt", 1),
        ([], "no corpus named: expected wnut17, btc, wikigold, uner-ewt", 1),
        (["wnut17", "--from", "{folder}/none"], "none: no such folder; give one that holds the files", 1),
        (["wnut17", "--from", "{folder}"], "has neither wnut17/train.txt nor wnut17/wnut17train.conll", 1),
        (["wnut17"], "raw.githubusercontent.com: cannot be reached (Connection refused); try again later, or bring", 1),
        (["wnut17", "--output", "{folder}/file"], "Not a directory; check the path", 1),
        (["wnut17", "--form", "x"], "--form", 2),
    ],
)
def test_a_mistake_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, arguments: list[str], message: str, code: int
) -> None:
    """Without a network, or with a wrong argument, the last line on stderr says what, and stdout stays empty."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("no_proxy", "")
    ended = command("fetch", *(text.format(folder=tmp_path) for text in arguments))
    assert (ended.code, ended.out) == (code, "")
    assert ended.last.startswith("nertrainer: ")
    assert message in ended.last


def test_the_list_names_every_corpus(command: Command) -> None:
    """`--list` prints each name with its licence, and fetches nothing."""
    ended = command("fetch", "--list")
    assert ended.code == 0
    for name in CORPORA:
        assert name in ended.out
    assert ended.out.count("CC BY 4.0") == 3


def test_every_address_is_of_a_commit_and_every_file_is_pinned() -> None:
    """No address can ever have other content, none is without TLS, and no file is pinned twice."""
    parts = [part for corpus in CORPORA.values() for part in corpus.parts]
    for part in parts:
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/.+", part.address)
        assert re.fullmatch("[0-9a-f]{64}", part.sha256)
        assert part.size > 0
    assert len({part.sha256 for part in parts}) == len({part.address for part in parts}) == len(parts)


def test_the_default_model_finds_its_files_where_fetch_puts_them() -> None:
    """What default-model.sh reads from DATA is what fetch writes into OUTPUT."""
    script = (ROOT / "trainer" / "default-model.sh").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$data/(\w+/\w+\.txt)", script))
    assert len(wanted) == 9
    assert wanted <= {f"{name}/{part.name}" for name, corpus in CORPORA.items() for part in corpus.parts}
