"""What can go wrong with a request to the engine, as errors that name the fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from cloned_proxy.runner.docker.engine_api import AnswerTimeoutError, EngineApiError
from cloned_proxy.runner.values.errors import EngineError, GoneError

TIMEOUT: Final = 60.0
"""Seconds for one call; only `wait` may take longer."""
LOST: Final = (AnswerTimeoutError, OSError, ValueError)


@contextlib.contextmanager
def explained(action: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what can go wrong with a request into errors of ours."""
    try:
        yield
    except passing:
        raise
    except EngineApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise GoneError(f"the engine could not {action}: it is gone") from error
        raise EngineError(f"the engine would not {action}: {error}") from error
    except LOST as error:
        raise _away(action) from error


@contextlib.contextmanager
def sdk_client(action: str) -> Iterator[Any]:
    """A client of the Docker SDK, which knows how a build is sent; its import is long, and few commands build."""
    import docker  # noqa: PLC0415  see above
    import docker.errors  # noqa: PLC0415

    try:
        settings: dict[str, Any] = docker.utils.kwargs_from_env()
        with contextlib.closing(docker.APIClient(**settings, version="auto", timeout=TIMEOUT)) as client:
            yield client
    except docker.errors.APIError as error:
        raise EngineError(f"the engine would not {action}: {error.explanation or error}") from error
    except (docker.errors.DockerException, OSError) as error:
        raise _away(action) from error


def _away(action: str) -> EngineError:
    return EngineError(
        f"the engine went away while asked to {action}; start it again: leftovers are removed at the next run"
    )
