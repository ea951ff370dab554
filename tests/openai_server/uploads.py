"""The body of a file upload, multipart/form-data."""

from __future__ import annotations

import re

from tests.openai_server import faults
from tests.openai_server.chat import Refusal


def parse_upload(content_type: str, body: bytes) -> tuple[bytes, str, str]:
    """(content, file name, purpose) of an upload; Refusal where a part is missing."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    if boundary is None:
        raise Refusal(faults.invalid("Expected multipart/form-data with a boundary."))
    parts: dict[str, tuple[bytes, str]] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        # Only the line ends around a part belong to the form; a file keeps its own.
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        file_name = re.search(rb'filename="([^"]*)"', head)
        if name:
            named = file_name[1].decode() if file_name else ""
            parts[name[1].decode()] = (content.removesuffix(b"\r\n"), named)
    for wanted in ("file", "purpose"):
        if wanted not in parts:
            raise Refusal(faults.invalid(f"Missing required parameter: '{wanted}'.", wanted))
    return *parts["file"], parts["purpose"][0].decode()
