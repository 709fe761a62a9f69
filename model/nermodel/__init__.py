"""What a model is: text, vocabulary, tags, network, CRF and checkpoint, shared by server and trainer."""

from pathlib import Path

DEFAULT = Path(__file__).parent / "en" / "000005.safetensors"  # the checkpoint that comes with the package
