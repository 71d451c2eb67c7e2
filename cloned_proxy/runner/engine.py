"""The container engine, reduced to what a sandbox needs, with errors that name the fix.

The only module that knows the Docker SDK. It talks to whatever DOCKER_HOST names, else to the default socket.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Self

import docker
import docker.errors
import requests.exceptions

from cloned_proxy.runner.engine_address import engine_host, try_engine
from cloned_proxy.runner.engine_answers import ContainerState, EngineFacts
from cloned_proxy.runner.engine_errors import LOST, explained
from cloned_proxy.runner.engine_images import EngineImages
from cloned_proxy.runner.errors import EngineError, GoneError, ImageMissingError
from cloned_proxy.runner.stream import Attached
from cloned_proxy.runner.terminal import TerminalSize, no_detach_keys
from cloned_proxy.runner.uninterrupted import to_its_end

_TIMEOUT: Final = 60.0
"""Seconds for one call; only `wait` may take longer."""


class Engine(EngineImages):
    """One connection to the engine; may be used by several threads."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._owed: set[str] = set()
        """Containers that could not be removed when their run ended: the engine was away, or refused."""

    @classmethod
    def connect(cls) -> Self:
        """Raises EngineError when no engine answers."""
        host = engine_host()
        try:
            try_engine(host)  # the SDK would leave its own socket open
            client = docker.APIClient(**_from_environment(), version="auto", timeout=_TIMEOUT)
        except (docker.errors.DockerException, *LOST) as error:
            raise EngineError(
                f"no container engine answers at {host}: start it (`sudo systemctl start docker`), or install it "
                "(`sudo apt-get install docker.io`); `run` can do without one (`--sandbox process`)"
            ) from error
        return cls(client)

    def close(self) -> None:
        """Ends the connection, and once more tries to remove what could not be removed."""
        self._settle()
        self._api.close()

    def facts(self) -> EngineFacts:
        with explained("describe itself"):
            info, version = self._api.info(), self._api.version()
        components = [str(part.get("Name", "")) for part in version.get("Components") or []]
        security = tuple(info.get("SecurityOptions") or ())
        return EngineFacts(
            name="Podman" if any("Podman" in name for name in components) else "Docker",
            version=str(version.get("Version", "")),
            api=str(version.get("ApiVersion", "")),
            storage=str(info.get("Driver", "")),
            security=security,
            runtimes=tuple(sorted(info.get("Runtimes") or {})),
            rootless=any("rootless" in option for option in security),
            cgroup=f"v{info.get('CgroupVersion', '1')}",
        )

    def create(self, name: str, config: dict[str, Any]) -> str:
        """Creates a container and returns its id. A holder that is gone is the usual reason for a failure.

        A request that the engine has cannot be taken back. Whoever is interrupted meanwhile (SIGTERM, Ctrl-C) gets the
        exception only after the engine has answered; `discard(name)` then finds what it made.
        """
        self._settle()
        return to_its_end(lambda: self._create(name, config))

    def _create(self, name: str, config: dict[str, Any]) -> str:
        try:
            with explained(f"create {name}"):
                return str(self._api.create_container_from_config(config, name)["Id"])
        except docker.errors.ImageNotFound as error:
            raise ImageMissingError(f"image {config['Image']} is not on this machine") from error

    @contextlib.contextmanager
    def container(self, name: str, config: dict[str, Any]) -> Iterator[str]:
        """A container for the time of the block, by its id: removed at the end, also if it ends while it is created."""
        try:
            yield self.create(name, config)
        finally:
            self.discard(name)

    def start(self, container: str) -> None:
        with explained("start the container"):
            self._api.start(container)

    def attach(self, container: str, *, terminal: bool = False) -> Attached:
        """The container's standard streams; to be called before `start`, so that nothing is missed.

        `terminal`: it was created with one (`Tty`).
        """
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "detachKeys": no_detach_keys()}
        with explained("attach to the container"):
            stream = self._api.attach_socket(container, params=wanted)
        raw = getattr(stream, "_sock", None)
        if not isinstance(raw, socket.socket):
            raise EngineError("the engine is not behind a unix socket: set DOCKER_HOST=unix://…")
        # The descriptor becomes ours: nothing has been printed yet, so nothing is left in the SDK's buffers.
        ours = socket.socket(fileno=raw.detach())
        stream._response.close()  # noqa: SLF001  where the SDK keeps what else must be closed
        return Attached(ours, resize=partial(self._resize, container) if terminal else None)

    def _resize(self, container: str, size: TerminalSize) -> None:
        with explained("resize the terminal"):
            self._api.resize(container, height=size.rows, width=size.columns)

    @property
    def sizes_terminals(self) -> bool:
        """Whether a terminal can have its size from its start on (`ConsoleSize`, Engine API 1.42)."""
        return tuple(map(int, str(self._api.api_version).split("."))) >= (1, 42)

    def state(self, container: str) -> ContainerState:
        found = self.inspect(container)
        state = found["State"]
        return ContainerState(
            id=str(found["Id"]),
            running=bool(state["Running"]),
            pid=int(state["Pid"]),
            exit_code=int(state["ExitCode"]),
            oom_killed=bool(state.get("OOMKilled")),
        )

    def inspect(self, container: str) -> dict[str, Any]:
        with explained("inspect a container"):
            found: dict[str, Any] = self._api.inspect_container(container)
        return found

    def find(self, name: str) -> str | None:
        """The id of the container with exactly this name, running or not; None when there is none."""
        try:
            return str(self.inspect(name)["Id"])
        except GoneError:
            return None

    def last_words(self, container: str) -> str:
        """The last line that a container printed."""
        with explained("read a container's log"):
            said = bytes(self._api.logs(container, tail=1)).decode(errors="replace").strip()
        return said or "it said nothing"

    def wait(self, container: str, seconds: float | None) -> int | None:
        """The exit code, or None when it still runs after `seconds`."""
        self._knock()  # a tool's stream ends with the engine, too
        try:
            with explained("wait for the container", passing=(requests.exceptions.ReadTimeout,)):
                return int(self._api.wait(container, timeout=seconds)["StatusCode"])
        except requests.exceptions.ReadTimeout:
            return None
        except EngineError:
            # requests reports a read timeout on a keep-alive connection as a connection error: ask what is true.
            self._knock()
            return None if self.state(container).running else self.state(container).exit_code

    def kill(self, container: str, name: str = "SIGKILL") -> None:
        """Sends it a signal. One that has ended already is fine."""
        with explained(f"send {name} to the container"), contextlib.suppress(docker.errors.APIError):
            self._api.kill(container, name)

    def remove(self, container: str) -> None:
        """Removes it, running or not, and returns when it is gone. One that is gone already is fine."""
        if self._ask_to_remove(container):
            return
        with contextlib.suppress(GoneError), explained("remove the container"):
            failed = self._api.wait(container, timeout=_TIMEOUT, condition="removed").get("Error")
            if failed:
                raise EngineError(f"the engine would not remove the container: {failed.get('Message')}")

    def _ask_to_remove(self, container: str) -> bool:
        """Whether it is gone; False while somebody else's removal of it is under way. Raises EngineError."""
        with contextlib.suppress(GoneError), explained("remove the container"):
            try:
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.APIError as error:
                # A 409 has other causes, too, and the engine tells them apart by its words alone.
                if error.status_code == HTTPStatus.CONFLICT and "already in progress" in str(error.explanation):
                    return False
                raise
        return True

    def discard(self, container: str) -> None:
        """Removes it, running or not; when the engine is away, as soon as it answers again. Never raises."""
        try:
            self._knock()
            self.remove(container)
        except EngineError:
            self._owed.add(container)
        except BaseException:
            self._owed.add(container)  # interrupted: `close` tries again
            raise
        self._settle(but=container)

    def _knock(self) -> None:
        """Raises EngineError when nobody is at the socket; the SDK would leave a socket of its own open then."""
        with explained("answer"):
            try_engine(engine_host())

    def _settle(self, *, but: str = "") -> None:
        """Tries once more what is owed. One that is refused again, or is being removed, holds up no other."""
        for container in tuple(self._owed - {but}):
            try:
                self._knock()
            except EngineError:
                return
            with contextlib.suppress(EngineError):
                if self._ask_to_remove(container):
                    self._owed.discard(container)

    def owned(self, label: str) -> Iterator[tuple[str, str]]:
        """(container id, value of `label`) of every container that carries the label, running or not."""
        with explained("list containers"):
            rows = self._api.containers(all=True, filters={"label": [label]})
        for row in rows:
            yield str(row["Id"]), str(row["Labels"][label])

    def names(self) -> list[str]:
        """The names of all containers, running or not."""
        with explained("list containers"):
            return [str(name).lstrip("/") for row in self._api.containers(all=True) for name in row["Names"]]

    def network(self, name: str) -> dict[str, Any] | None:
        """A network by its exact name, or None."""
        try:
            with explained(f"look at network {name}"):
                found: dict[str, Any] = self._api.inspect_network(name)
        except GoneError:
            return None
        return found

    def create_network(self, name: str, *, options: dict[str, str], labels: dict[str, str]) -> None:
        """An internal bridge without IPv6."""
        with explained(f"create network {name}"):
            self._api.create_network(
                name, driver="bridge", internal=True, enable_ipv6=False, options=options, labels=labels
            )

    def remove_network(self, name: str) -> None:
        with contextlib.suppress(GoneError), explained(f"remove network {name}"):
            self._api.remove_network(name)


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = docker.utils.kwargs_from_env()
    return found
