"""Start a server with the embedded model on a free port, tag sample.txt through the client, stop the server."""

import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = Path(sys.executable).parent
SAMPLE = Path(__file__).with_name("sample.txt")

server = subprocess.Popen(
    [COMMANDS / "nerserver", "--address", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
)
assert server.stdout is not None
address = ""
for line in server.stdout:
    print(line, end="", flush=True)
    if "listening on " in line:
        address = line.split("listening on ")[1].split()[0]
        break
if not address:
    sys.exit(f"demo: the server did not start (exit code {server.wait()}); its last words are above")
try:
    print(f"\n$ nerclient tag {SAMPLE} --address {address}", flush=True)
    tagged = subprocess.run([COMMANDS / "nerclient", "tag", SAMPLE, "--address", address], check=False)
finally:
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
if tagged.returncode or server.returncode:
    sys.exit(f"demo: the client ended with {tagged.returncode}, the server with {server.returncode}")
print(
    """
The server has stopped. What to try next, after `. .venv/bin/activate`:
  make serve                             a server that watches models/en; leave it running
  nerclient tag FILE                     tag a file of your own, or `-` for standard input
  nerclient tag FILE --format jsonl      one JSON object a line, with offsets
  make train                             train on examples/corpus; the running server takes the new model"""
)
