"""The log of a process: its lines, and what never gets into it."""

import json
import re
import subprocess
import sys

import pytest

SECRET = "Ada met Acme"
NOISY = """
import asyncio, logging, sys, threading, warnings
from nerserver import logs

_, log_format, worker = sys.argv
logs.configure(log_format, int(worker) if worker else None)
logging.getLogger("a.b").info("two\\nlines, %s", "ä")
logging.getLogger("a.b").debug("unseen")
warnings.warn("odd")
text = "Ada" + " met Acme"

def fail(cause=None):
    raise LookupError(text) from cause

def fail_twice():
    try:
        fail()
    except LookupError as error:
        fail(error)

try:
    fail_twice()
except LookupError:
    logging.getLogger("grpc._cython.cygrpc").exception("Unexpected")

async def main():
    asyncio.get_running_loop().set_exception_handler(logs.on_loop_error)
    future = asyncio.get_running_loop().create_future()
    future.set_exception(LookupError(text))
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0)

asyncio.run(main())
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def run(log_format: str, worker: str = "") -> list[str]:
    """The lines that NOISY logs."""
    command = [sys.executable, "-c", NOISY, log_format, worker]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    return ended.stderr.splitlines()


def test_json() -> None:
    """A record is one line of JSON, UTC in RFC 3339, with the type and place of an exception and never its message."""
    lines = run("json", "3")
    records = [json.loads(line) for line in lines]
    assert records[0].keys() == {"timestamp", "level", "logger", "message", "pid", "worker"}
    assert [records[0][key] for key in ("level", "logger", "message", "worker")] == ["INFO", "a.b", "two\nlines, ä", 3]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", records[0]["timestamp"])
    assert [each["logger"] for each in records[1:3]] == ["py.warnings", "grpc._cython.cygrpc"]
    assert records[2]["traceback"].count("builtins.LookupError at\n") == 2
    assert 'File "<string>"' in records[2]["traceback"]
    assert sum("event loop: " in each["message"] for each in records) == 2
    assert [each["level"] for each in records[-2:]] == ["CRITICAL", "CRITICAL"]
    assert len(records) == 7
    assert SECRET not in "".join(lines)


@pytest.mark.parametrize(("worker", "who"), [("", ""), ("3", r" worker 3 \(\d+\)")])
def test_console(worker: str, who: str) -> None:
    """A record is a line with its time, which names the worker if there are several, and an exception follows it."""
    lines = run("console", worker)
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d [\d:,]+ INFO{who} a.b: two", lines[0])
    assert lines.count("builtins.LookupError at") == 6
    assert SECRET not in "".join(lines)
