"""Builds the native kernel with the package where there is a C++ compiler; without it plain torch tags."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNEL = Path("model/nermodel/kernel")


class KernelHook(BuildHookInterface):
    """Adds the kernel's libraries to the wheel, which is then for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build them, or say why not."""
        spec = importlib.util.spec_from_file_location("build", Path(self.root) / KERNEL / "build.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            module.build()
        except OSError as error:
            self.app.display_warning(f"the native kernel is not built, so tagging is slower: {error}")
            return
        build_data["artifacts"].append(f"{KERNEL}/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
