"""Bringing a published file here, whole or not at all: by HTTP, going on where a broken download ended, or by copy."""

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse, responses
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from nermodel.files import sync_folder
from nertrainer.known import Part

TIMEOUT_S = 30.0  # to connect, and for each read
_CHUNK_BYTES = 1 << 16
_ELSE = "try again later, or bring the files from elsewhere and give --from DIR"
_STRONG_ETAG = re.compile(r'"[!#-~]*"')  # RFC 9110 8.8.3, the ASCII part of it

Watch = Callable[[int], None]


class FetchError(ValueError):
    """A file cannot be had; the message is one line and says which, why and what to do."""


def fetch(part: Part, folder: Path, source: Path | None, watch: Watch, timeout_s: float = TIMEOUT_S) -> str:
    """Put a file into `folder`, from its publisher or from the folder `source`, and return how it came there.

    Only the pinned bytes get its name; what a broken download left waits beside as NAME.partial for the next. `watch`
    is given the bytes had so far. FetchError says why there is no such file, OSError why it cannot be written.
    """
    path = folder / part.name
    if _is_there(path, part):
        return "already there"
    folder.mkdir(parents=True, exist_ok=True)
    with _partial(path) as file:
        if _is_there(path, part):  # another fetch has ended meanwhile
            return "already there"
        how = _copy(part, path, file, source, watch) if source else _download(part, path, file, watch, timeout_s)
        os.fsync(file.fileno())
        os.rename(_partial_path(path), path)
        _etag_path(path).unlink(missing_ok=True)
    sync_folder(folder)
    return how


def _is_there(path: Path, part: Part) -> bool:
    try:
        same = _is_published(path, part)
    except FileNotFoundError:
        return False
    if not same:
        raise FetchError(f"{path}: is there and is not the published file; move it away, or give another --output")
    return True


def _is_published(path: Path, part: Part) -> bool:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != part.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _etag_path(path: Path) -> Path:
    """Where the ETag is kept of the answer that the partial file's bytes are of."""
    return path.with_name(f"{path.name}.partial.etag")


@contextmanager
def _partial(path: Path) -> Iterator[FileIO]:
    """The partial file, locked against other fetches; an empty one is not left behind."""
    partial = _partial_path(path)
    while True:
        with partial.open("a+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FetchError(f"{path}: another fetch is at work on it; let it end, then run again") from None
            if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                continue  # another fetch renamed or dropped it between the opening and the lock
            try:
                yield file
            finally:
                if os.fstat(file.fileno()).st_size == 0:
                    partial.unlink(missing_ok=True)
                    _etag_path(path).unlink(missing_ok=True)
            return


def _copy(part: Part, path: Path, file: FileIO, source: Path, watch: Watch) -> str:
    """Fill the partial file from the first of the places in `source` that has the published bytes."""
    names = (f"{path.parent.name}/{part.name}", f"{path.parent.name}/{part.published_name}")
    places = [source / name for name in (*names, part.published_name, part.name)]
    here = [place for place in places if place.exists()]
    if not here:
        raise FetchError(f"{source}: has neither {' nor '.join(names)}; bring it from {part.address}")
    found = next((place for place in here if _is_published(place, part)), None)
    if found is None:
        raise FetchError(f"{here[0]}: its SHA-256 is not that of the published file; bring it from {part.address}")
    with found.open("rb") as stream:
        _fill(file, 0, stream, part, path, watch)
    if not _is_published(_partial_path(path), part):
        file.truncate(0)
        raise FetchError(f"{found}: changed while it was copied; run again when nobody writes to it")
    return f"copied from {found}"


def _download(part: Part, path: Path, file: FileIO, watch: Watch, timeout_s: float) -> str:
    """Fill the partial file from the publisher, from where it ends if the server still has what it was cut from."""
    if _is_published(_partial_path(path), part):
        return "downloaded"
    etag_path = _etag_path(path)
    start = file.seek(0, os.SEEK_END)
    etag = etag_path.read_text(encoding="latin-1") if etag_path.exists() else ""
    if not _STRONG_ETAG.fullmatch(etag):
        start = 0
    while True:
        answer, start = _ask(part, start, etag, timeout_s)
        with answer:
            if start == 0:
                file.truncate(0)
                etag = answer.headers.get("ETag", "")
                etag_path.write_text(etag, encoding="latin-1")
            _fill(file, start, answer, part, path, watch)
        if _is_published(_partial_path(path), part):
            return f"downloaded from byte {start:,} on" if start else "downloaded"
        file.truncate(0)
        if start == 0:
            raise FetchError(f"{part.address}: what came is not the published file; {_ELSE}")
        start = 0  # what was there before was not of it


def _ask(part: Part, start: int, etag: str, timeout_s: float) -> tuple[HTTPResponse, int]:
    """The server's answer and the byte that it begins at: `start`, or 0 where the server sends the whole file."""
    headers = {"User-Agent": "nertrainer"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": etag}
    try:
        request = Request(part.address, headers=headers)  # noqa: S310 - of the table, not of a user
        answer = build_opener(_Redirects).open(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if start and error.code == 416:
            return _ask(part, 0, "", timeout_s)
        cause = "redirects without end, or to no web address"
        if not 300 <= error.code < 400:
            cause = f"answers {error.code} {responses.get(error.code, '')}"
        raise FetchError(f"{part.address}: the server {cause}; {_ELSE}") from error
    except (OSError, HTTPException) as error:
        host = urlsplit(part.address).netloc
        raise FetchError(f"{host}: cannot be reached ({_cause(error)}); {_ELSE}") from error
    if (
        start
        and answer.status == 206
        and answer.headers["Content-Range"] == f"bytes {start}-{part.size - 1}/{part.size}"
    ):
        return answer, start
    length = answer.headers["Content-Length"]
    if answer.status == 200 and length in (None, str(part.size)):
        return answer, 0
    answer.close()
    if start:
        return _ask(part, 0, "", timeout_s)
    raise FetchError(f"{part.address}: the server answers {answer.status} without the {part.size:,} bytes; {_ELSE}")


class _Redirects(HTTPRedirectHandler):
    """Follows a few redirects, to https alone once there."""

    max_repeats = 2
    max_redirections = 5

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("https", req.type):
            fp.close()
            raise FetchError(f"{req.full_url}: redirects to {scheme}, which is not safe; {_ELSE}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fill(
    file: FileIO, start: int, stream: HTTPResponse | BufferedReader, part: Part, path: Path, watch: Watch
) -> None:
    """Write what the stream has, from byte `start` of the file to its published size."""
    file.truncate(start)
    done = start
    while done < part.size:
        cause = "the other side closed it"
        try:
            chunk = stream.read1(min(_CHUNK_BYTES, part.size - done))
        except (OSError, HTTPException) as error:
            chunk, cause = b"", _cause(error)
        if not chunk:
            raise FetchError(f"{path}: broke off at {done:,} of {part.size:,} bytes ({cause}); run again to go on")
        while chunk:
            try:
                written = file.write(chunk)
            except OSError as error:
                raise FetchError(
                    f"{path}: {error.strerror} at {done:,} of {part.size:,} bytes; make room, then run again"
                ) from error
            chunk = chunk[written:]
            done += written
        watch(done)


def _cause(error: Exception) -> str:
    """Why there is no answer, in words that are not the server's."""
    if isinstance(error, OSError):
        reason = getattr(error, "reason", error)
        return getattr(reason, "strerror", None) or str(reason)
    return "it does not speak HTTP as it should"
