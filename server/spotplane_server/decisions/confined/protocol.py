"""Messages between the server and a confined process, and the limits of that process."""

from __future__ import annotations

import struct
from typing import Final, Literal, TypeAlias


class Rejected(Exception):
    """The upload or its answer cannot be used; the message says why."""


Format: TypeAlias = Literal["onnx", "cel"]

# Length of the body in bytes, and kind.
HEADER: Final = struct.Struct(">IB")
KIND_DOCUMENT: Final = 1
KIND_QUESTION: Final = 2
KIND_LOADED: Final = 3
KIND_ANSWER: Final = 4
KIND_FAULT: Final = 5

# An upload has at most 100 MiB.
MAX_DOCUMENT_BYTES: Final = 128 * 1024 * 1024
# An answer is a score for each pool of a type, or the text of a fault.
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_FAULT_CHARS: Final = 300

# Address space on top of what the libraries use. A rule set needs a few MiB; a model of 100 MiB is
# held three times while it is loaded.
MEMORY_BYTES: Final[dict[Format, int]] = {"onnx": 512 * 1024 * 1024, "cel": 64 * 1024 * 1024}
# Processor time of one process. The server replaces a process well before that (see `worker`), so
# that only one that the server lost control of reaches it.
CPU_SECONDS: Final = 600
# Processor time that all conditions of a rule set may take for one question.
RULES_SECONDS: Final = 0.010

# A rule set's answer when no condition holds.
NO_RULE: Final = 0xFFFFFFFF
RULE: Final = struct.Struct(">I")
# Numbers of a candidate in a model's question.
COLUMNS: Final = 13
