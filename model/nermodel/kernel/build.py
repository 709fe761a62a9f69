"""Build the native kernel, once for each set of instructions: `python -m nermodel.kernel.build`.

Wants a C++17 compiler, named by CXX or else `c++`; no other file of ours, so that an installation can run it.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# fmt: off
FLAGS = (
    "-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared",
    "-fvisibility=hidden", "-pthread",
)
# fmt: on
# By machine: what a library's name adds, as `kernel_level` says it, and what its compiler is told.
LEVELS = {
    "x86_64": {
        "": ("-march=x86-64",),
        "-avx2": ("-march=x86-64-v3",),
        "-avx512": ("-march=x86-64-v4",),
        "-avx512vnni": ("-march=x86-64-v4", "-mavx512vnni"),
    },
    "aarch64": {"": (), "-dotprod": ("-march=armv8.2-a+dotprod",)},
}


def build() -> list[Path]:
    """Build the libraries, each replaced as a whole, and return their paths; OSError says why that fails."""
    compiler = os.environ.get("CXX", "c++")
    running = {}
    for level, flags in LEVELS.get(platform.machine(), {"": ()}).items():
        library = FOLDER / f"kernel{level}.so"
        partial = library.with_suffix(f".{os.getpid()}.partial")
        command = [*compiler.split(), *FLAGS, *flags, "-o", str(partial), str(FOLDER / "kernel.cpp")]
        try:
            running[library, partial] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 ours
        except OSError as error:
            raise OSError(f"no C++ compiler: {compiler}: {error.strerror}") from error
    said = {paths: process.communicate()[1] for paths, process in running.items()}
    try:
        for paths, process in running.items():
            if process.returncode:
                lines = said[paths].splitlines() or [f"exit code {process.returncode}"]
                raise OSError(f"{compiler}: {next((line for line in lines if 'error' in line), lines[0])}")
        for library, partial in running:
            partial.replace(library)  # a server that runs keeps the file it has loaded
    finally:
        for _, partial in running:
            partial.unlink(missing_ok=True)
    return [library for library, _ in running]


def main() -> None:
    """Build, and say what was built or why nothing."""
    try:
        sys.stdout.writelines(f"{library}\n" for library in build())
    except OSError as error:
        sys.exit(f"the native kernel is not built: {error}")


if __name__ == "__main__":
    main()
