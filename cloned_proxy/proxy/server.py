"""The composition root: everything one proxy process consists of, put together in order and taken apart in reverse.

Nothing accepts a connection before every part is ready, and a start that fails half-way closes what it had opened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from cloned_proxy.policy.model import ANONYMOUS, Policy
from cloned_proxy.proxy.budget import Budgets
from cloned_proxy.proxy.enforcer import Enforcer
from cloned_proxy.proxy.gate import Gate
from cloned_proxy.proxy.inspection.engine import InspectionEngine
from cloned_proxy.proxy.listener import BindError, Listener, OwnListeners, bind_tcp
from cloned_proxy.proxy.resolver import Resolver
from cloned_proxy.store.atomic import write_atomically
from cloned_proxy.store.keys import load_or_create_key
from cloned_proxy.store.workspace import Workspace
from cloned_proxy.telemetry.exposition import Exposition
from cloned_proxy.telemetry.metrics import Metrics
from cloned_proxy.share import share_path
