"""The SDK's many errors, told as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import docker
import docker.errors
import requests.exceptions

from cloned_proxy.runner.errors import EngineError, GoneError

LOST: Final = (requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout, ConnectionError, OSError)


@contextlib.contextmanager
def explained(action: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns the SDK's many errors into ours; a missing image stays, because callers know how to bring it."""
    try:
        yield
    except (docker.errors.ImageNotFound, *passing):
        raise
    except docker.errors.NotFound as error:
        raise GoneError(f"the engine could not {action}: it is gone") from error
    except docker.errors.APIError as error:
        raise EngineError(f"the engine would not {action}: {error.explanation or error}") from error
    except (docker.errors.DockerException, *LOST) as error:
        raise EngineError(
            f"the engine went away while asked to {action}; start it again: leftovers are removed at the next run"
        ) from error
