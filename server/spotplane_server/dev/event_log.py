"""What happened, line by line: printed when plain, kept for the view in any case."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Final

_KEPT: Final = 200


class Narrator:
    """Tells the story.

    Args:
        plain: Whether to print; else a view shows the lines.
    """

    def __init__(self, *, plain: bool) -> None:
        self.plain = plain
        self.lines: deque[tuple[str, str]] = deque(maxlen=_KEPT)

    def say(self, text: str) -> None:
        """Tell something that happened now."""
        at = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        self.lines.append((at, text))
        if self.plain:
            print(f"{at}  {text}", flush=True)

    def died(self, name: str, status: int) -> None:
        """Tell that a child died by itself."""
        self.say(f"{name} died with status {status} and is started again")
