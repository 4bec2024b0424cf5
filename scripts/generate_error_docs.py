"""Write docs/errors.md from the comments of error_reason.proto; ``--check`` only compares."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "proto" / "spotplane" / "v1" / "error_reason.proto"
TARGET = ROOT / "docs" / "errors.md"

_VALUE = re.compile(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = \d+;")
_HEAD = """\
# Errors

Generated from `proto/spotplane/v1/error_reason.proto` by `scripts/generate_error_docs.py`.

gRPC sends a reason as `google.rpc.ErrorInfo.reason` with domain `spotplane`; REST prints it as
`error.code`. Switch on the reason; the text beside it is for people and may change. Every error
carries a `correlation_id`: the server's log has the cause under it.

| reason | what it means, gRPC code, HTTP status |
|---|---|
"""


def render() -> str:
    """The document as the comments have it now."""
    rows = []
    for comment, name in _VALUE.findall(SOURCE.read_text(encoding="utf-8")):
        if name != "UNSPECIFIED":
            lines = (line.strip().removeprefix("//").strip() for line in comment.splitlines())
            rows.append(f"| `{name}` | {' '.join(lines).replace('|', chr(92) + '|')} |\n")
    return _HEAD + "".join(rows)


def main() -> None:
    """Write the document, or say that it is not what it should be."""
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(render(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != render():
        sys.exit("docs/errors.md is out of date: run scripts/generate_error_docs.py")


if __name__ == "__main__":
    main()
