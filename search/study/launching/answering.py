"""An application's checks, made in a process that is forked as workers are, so that the command itself loads no torch.

The process answers one question after the other, and keeps what it has loaded for the next.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import cloudpickle
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import DictConfig

from search.channel import Application
from search.study.launching.forkserver import ForkServer
