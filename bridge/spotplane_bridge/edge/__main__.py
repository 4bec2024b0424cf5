"""Write Envoy's configuration into a directory: ``python -m spotplane_bridge.edge DIRECTORY``.

Settings come from ``SPOTPLANE_*``. ``--as PATH`` is the directory's path on the machine that runs
Envoy, when that is another one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path, PurePosixPath

from spotplane_bridge.edge.config import EdgeConfig, EdgeConfigError
from spotplane_bridge.edge.generate import write


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(prog="python -m spotplane_bridge.edge", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--as", dest="place", type=PurePosixPath, metavar="PATH")
    arguments = parser.parse_args()
    try:
        config = EdgeConfig.from_env(os.environ)
    except EdgeConfigError as err:
        sys.exit(str(err))
    write(config, arguments.directory, place=arguments.place)


main()
