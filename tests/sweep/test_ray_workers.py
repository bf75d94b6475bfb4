"""Commands on a Ray cluster: plain words, nodes that die and freeze, nothing left over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import exits

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray[tune]'")

from engine.sweep.driver import Ended  # noqa: E402
from engine.sweep.plan import Command  # noqa: E402
from engine.sweep.ray_workers import RayWorkers  # noqa: E402
from tests.ray_nodes import Nodes  # noqa: E402
