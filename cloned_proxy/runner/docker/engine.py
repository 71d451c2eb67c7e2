"""The container engine, reduced to what a sandbox needs, with errors that name the fix.

It talks to whatever DOCKER_HOST names, else to the default socket. Only what builds images needs the Docker SDK.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

from cloned_proxy.runner.docker.engine_address import engine_host
from cloned_proxy.runner.docker.engine_answers import ContainerState, EngineFacts
from cloned_proxy.runner.docker.engine_api import AnswerTimeoutError, EngineApi, EngineApiError
from cloned_proxy.runner.docker.engine_errors import LOST, TIMEOUT, explained
from cloned_proxy.runner.docker.engine_images import EngineImages
from cloned_proxy.runner.docker.stream import Attached
from cloned_proxy.runner.docker.uninterrupted import to_its_end
from cloned_proxy.runner.values.errors import EngineError, GoneError, ImageMissingError
from cloned_proxy.runner.values.spec import OWNER_LABEL
from cloned_proxy.runner.values.terminal import TerminalSize, no_detach_keys


class Engine(EngineImages):
    """One engine; may be used by several threads."""

    def __init__(self, api: EngineApi) -> None:
        super().__init__(api)
        self._owed: set[str] = set()
        """Containers that could not be removed when their run ended: the engine was away, or refused."""

    @classmethod
    def connect(cls) -> Self:
        """Raises EngineError when no engine answers."""
        host = engine_host()
        try:
            api = EngineApi(host)
            api.ask_raw("GET", "/_ping", timeout=TIMEOUT)
        except (EngineApiError, *LOST) as error:
            raise EngineError(
                f"no container engine answers at {host}: start it (`sudo systemctl start docker`), or install it "
                "(`sudo apt-get install docker.io`); `run` can do without one (`--sandbox process`)"
            ) from error
        return cls(api)

    def close(self) -> None:
        """Once more tries to remove what could not be removed."""
        self._settle()

    def facts(self) -> EngineFacts:
        with explained("describe itself"):
            info, version = self._ask("GET", "/info"), self._ask("GET", "/version")
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
                return str(self._ask("POST", "/containers/create", body=config, name=name)["Id"])
        except GoneError as error:
            if "no such image" not in str(error.__cause__).lower():
                raise  # a network, or the holder
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
            self._ask("POST", f"/containers/{container}/start")

    def attach(self, container: str, *, terminal: bool = False) -> Attached:
        """The container's standard streams; to be called before `start`, so that nothing is missed.

        `terminal`: it was created with one (`Tty`).
        """
        with explained("attach to the container"):
            sock = self._api.open_stream(
                f"/containers/{container}/attach",
                timeout=TIMEOUT,
                stdin=1,
                stdout=1,
                stderr=1,
                stream=1,
                detachKeys=no_detach_keys(),
            )
        return Attached(sock, resize=partial(self._resize, container) if terminal else None)

    def _resize(self, container: str, size: TerminalSize) -> None:
        with explained("resize the terminal"):
            self._ask("POST", f"/containers/{container}/resize", h=size.rows, w=size.columns)

    @property
    def sizes_terminals(self) -> bool:
        """Whether a terminal can have its size from its start on (`ConsoleSize`, Engine API 1.42)."""
        with explained("tell its version"):
            version = str(self._ask("GET", "/version")["ApiVersion"])
        return tuple(map(int, version.split("."))) >= (1, 42)

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
            found: dict[str, Any] = self._ask("GET", f"/containers/{container}/json")
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
            path = f"/containers/{container}/logs"
            raw = self._api.ask_raw("GET", path, timeout=TIMEOUT, stdout=1, stderr=1, tail=1)
        # Framed as in `stream`: eight bytes in front of the line.
        said = raw[8:].decode(errors="replace").strip()
        return said or "it said nothing"

    def wait(self, container: str, seconds: float | None) -> int | None:
        """The exit code, or None when it still runs after `seconds`."""
        try:
            with explained("wait for the container", passing=(AnswerTimeoutError,)):
                path = f"/containers/{container}/wait"
                return int(self._api.ask("POST", path, timeout=seconds)["StatusCode"])
        except AnswerTimeoutError:
            return None

    def kill(self, container: str, name: str = "SIGKILL") -> None:
        """Sends it a signal. One that has ended already is fine."""
        with explained(f"send {name} to the container"), contextlib.suppress(EngineApiError):
            self._ask("POST", f"/containers/{container}/kill", signal=name)

    def remove(self, container: str) -> None:
        """Removes it, running or not, and returns when it is gone. One that is gone already is fine."""
        if self._ask_to_remove(container):
            return
        with contextlib.suppress(GoneError), explained("remove the container"):
            path = f"/containers/{container}/wait"
            failed = self._ask("POST", path, condition="removed").get("Error")
            if failed:
                raise EngineError(f"the engine would not remove the container: {failed.get('Message')}")

    def _ask_to_remove(self, container: str) -> bool:
        """Whether it is gone; False while somebody else's removal of it is under way. Raises EngineError."""
        with contextlib.suppress(GoneError), explained("remove the container"):
            try:
                self._ask("DELETE", f"/containers/{container}", force=1, v=1)
            except EngineApiError as error:
                # A 409 has other causes, too, and the engine tells them apart by its words alone.
                if error.status == HTTPStatus.CONFLICT and "already in progress" in str(error):
                    return False
                raise
        return True

    def discard(self, container: str) -> None:
        """Removes it, running or not; when the engine is away, as soon as it answers again. Never raises."""
        try:
            self.remove(container)
        except EngineError:
            self._owed.add(container)
        except BaseException:
            self._owed.add(container)  # interrupted: `close` tries again
            raise
        self._settle(but=container)

    def _settle(self, *, but: str = "") -> None:
        """Tries once more what is owed. One that is refused again, or is being removed, holds up no other."""
        for container in tuple(self._owed - {but}):
            with contextlib.suppress(EngineError):
                if self._ask_to_remove(container):
                    self._owed.discard(container)

    def rename(self, container: str, name: str) -> None:
        with explained("rename the container"):
            self._ask("POST", f"/containers/{container}/rename", name=name)

    def owned(self, label: str) -> Iterator[tuple[str, str]]:
        """(container id, value of `label`) of every container that carries the label, running or not."""
        for row in self.labelled(label):
            yield str(row["Id"]), str(row["Labels"][label])

    def labelled(self, label: str) -> list[dict[str, Any]]:
        """What the engine says in short of each container that carries the label, running or not (`docker ps`)."""
        with explained("list containers"):
            rows: list[dict[str, Any]] = self._ask(
                "GET", "/containers/json", all=1, filters=json.dumps({"label": [label]})
            )
        return rows

    def owners(self) -> Iterator[tuple[str, str]]:
        """(container id, mark of the process that it belongs to) of every container that has an owner."""
        for row in self.labelled(OWNER_LABEL):
            yield str(row["Id"]), _owner(row["Names"][0] if row["Names"] else "", row["Labels"])

    def owner_of(self, container: str) -> str:
        found = self.inspect(container)
        return _owner(found["Name"], found["Config"]["Labels"])

    def names(self) -> list[str]:
        """The names of all containers, running or not."""
        with explained("list containers"):
            return [
                str(name).lstrip("/") for row in self._ask("GET", "/containers/json", all=1) for name in row["Names"]
            ]

    def network(self, name: str) -> dict[str, Any] | None:
        """A network by its exact name, or None."""
        try:
            with explained(f"look at network {name}"):
                found: dict[str, Any] = self._ask("GET", f"/networks/{quote(name)}")
        except GoneError:
            return None
        return found

    def create_network(self, name: str, *, options: dict[str, str], labels: dict[str, str]) -> None:
        """An internal bridge without IPv6."""
        with explained(f"create network {name}"):
            body = {"Name": name, "Driver": "bridge", "Internal": True, "EnableIPv6": False, "Options": options}
            self._ask("POST", "/networks/create", body={**body, "Labels": labels, "CheckDuplicate": True})

    def remove_network(self, name: str) -> None:
        with contextlib.suppress(GoneError), explained(f"remove network {name}"):
            self._ask("DELETE", f"/networks/{quote(name)}")


def _owner(name: str, labels: dict[str, str]) -> str:
    """Whose container it is. A lent slot's name says so (`slots.slot_name`): a label cannot be changed."""
    return name.partition(".")[2] or str(labels[OWNER_LABEL])
