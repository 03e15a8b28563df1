"""An application's checks, made in a process that is forked as workers are, so that the command itself loads no torch.

The process answers one question after the other, and keeps what it has loaded for the next.
"""

from __future__ import annotations
