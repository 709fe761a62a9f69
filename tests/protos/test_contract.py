"""The wire contract: its generated modules are current, its field numbers are for ever, its lint is clean."""

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor

from ner.v1 import admin_pb2, tagger_pb2

ROOT = Path(__file__).parents[2]
FIELDS = Path(__file__).with_name("fields.txt")


def described() -> set[str]:
    """Every method, field and enum value of the contract, with its number and type."""
    lines: set[str] = set()
    for file in (tagger_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR):
        lines |= {
            f"rpc {method.name}({'stream ' * method.client_streaming}{method.input_type.name}) "
            f"{'stream ' * method.server_streaming}{method.output_type.name}"
            for service in file.services_by_name.values()
            for method in service.methods
        }
        for message in file.message_types_by_name.values():
            lines |= _fields(message)
        for enum in file.enum_types_by_name.values():
            lines |= _values(enum)
    return lines


def _fields(message: Descriptor) -> set[str]:
    return {
        f"{message.name}.{field.name} = {field.number} {'repeated ' * field.is_repeated}"
        f"{field.message_type.full_name if field.message_type else field.type}"
        for field in message.fields
    }


def _values(enum: EnumDescriptor) -> set[str]:
    return {f"{enum.name}.{value.name} = {value.number}" for value in enum.values}


def test_generated_modules_are_current(tmp_path: Path) -> None:
    """Generating the modules anew changes nothing."""
    include = subprocess.run(
        [sys.executable, ROOT / "tests/protos/include.py"], capture_output=True, text=True, check=True
    ).stdout.strip()
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", f"-I{include}", *outputs]
    subprocess.run([*command, "protos/ner/v1/tagger.proto", "protos/ner/v1/admin.proto"], cwd=ROOT, check=True)
    made = sorted((tmp_path / "ner/v1").iterdir())
    assert len(made) == 2 * 3
    for path in made:
        assert path.read_text() == (ROOT / "protos/ner/v1" / path.name).read_text(), f"{path.name}: run `make proto`"


def test_fields_keep_their_numbers_and_types() -> None:
    """Nothing that was ever in the contract is gone or different; what is new must be added to fields.txt."""
    assert described() == set(FIELDS.read_text().splitlines())
