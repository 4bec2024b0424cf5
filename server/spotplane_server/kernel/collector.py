"""When Python looks for garbage in cycles, so that thousands of streams do not stand still for it.

A full look at the objects of 5,000 streams takes half a second, in which nobody is answered, and it
comes every few seconds while requests make new objects. What has lived for a moment is likely to
live on: it is put aside, out of sight of the looks that come by themselves.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Final

ASIDE_SECONDS: Final = 2.0
# What became garbage after it was put aside is found by a whole look, a pause now and then.
WHOLE_SECONDS: Final = 900.0


async def tend() -> None:
    """Put aside what lives, until cancelled; one task a process."""
    whole = time.monotonic() + WHOLE_SECONDS
    try:
        while True:
            await asyncio.sleep(ASIDE_SECONDS)
            if time.monotonic() >= whole:
                gc.unfreeze()
                gc.collect()
                whole = time.monotonic() + WHOLE_SECONDS
            gc.freeze()
    finally:
        gc.unfreeze()
