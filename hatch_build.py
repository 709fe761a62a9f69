"""Builds the native kernel with the package where there is a C++ compiler; without it plain torch tags."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNEL = Path("model/nermodel/kernel")


class KernelHook(BuildHookInterface):
    """Adds the kernel's libraries to the wheel, which is then for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build them, or say why not."""
        build = runpy.run_path(str(Path(self.root) / KERNEL / "build.py"))["build"]
        try:
            build()
        except OSError as error:
            self.app.display_warning(f"the native kernel is not built, so tagging is slower: {error}")
            return
        build_data["artifacts"].append(f"{KERNEL}/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
