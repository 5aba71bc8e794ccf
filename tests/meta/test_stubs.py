"""The committed stubs are those of the .proto files."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

TOP = Path(__file__).parents[2]
SOURCES = sorted(path.relative_to(TOP / "protos").as_posix() for path in (TOP / "protos").rglob("*.proto"))


@pytest.fixture(scope="module")
def compiled() -> dict[str, FileDescriptorProto]:
    """The .proto files as buf reads them."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    image = subprocess.run(
        [buf, "build", "--exclude-source-info", "-o", "-#format=binpb"], cwd=TOP, capture_output=True, check=True
    )
    return {file.name: _without_json_names(file) for file in FileDescriptorSet.FromString(image.stdout).file}


def _without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """Return the file as protoc embeds it: without JSON names, which every tool derives alike, and buf's notes."""
    file.DiscardUnknownFields()
    messages = list(file.message_type)
    while messages:
        message: DescriptorProto = messages.pop()
        for field in message.field:
            field.ClearField("json_name")
        messages += message.nested_type
    return file


@pytest.mark.parametrize("source", SOURCES)
def test_stub_has_the_sources_descriptor(compiled: dict[str, FileDescriptorProto], source: str) -> None:
    """Each generated module embeds exactly the messages, fields, numbers and services of its .proto file."""
    stub = importlib.import_module(source.removesuffix(".proto").replace("/", ".") + "_pb2")
    assert _without_json_names(FileDescriptorProto.FromString(stub.DESCRIPTOR.serialized_pb)) == compiled[source]


def test_every_stub_has_a_source() -> None:
    """No generated module is left over from a .proto file that is gone."""
    names = {source.removesuffix(".proto") for source in SOURCES}
    stubs = (TOP / "client").rglob("*_pb2*.py*")
    found = {
        path.relative_to(TOP / "client").as_posix().partition("_pb2")[0] for path in stubs if path.suffix != ".pyc"
    }
    assert found == names


@pytest.mark.parametrize("source", SOURCES)
def test_service_stubs_exist_exactly_for_services(compiled: dict[str, FileDescriptorProto], source: str) -> None:
    """A file with services has its gRPC module, and one without has none."""
    stub = TOP / "client" / (source.removesuffix(".proto") + "_pb2_grpc.py")
    assert stub.exists() == bool(compiled[source].service)
