"""The engine's images: what it has, and what it is given."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import quote

from cloned_proxy.runner.docker.engine_api import EngineApi
from cloned_proxy.runner.docker.engine_errors import TIMEOUT, explained, sdk_client
from cloned_proxy.runner.values.errors import EngineError, GoneError, ImageMissingError


class EngineImages:
    """The part of `Engine` that concerns images."""

    def __init__(self, api: EngineApi) -> None:
        self._api = api

    def _ask(self, method: str, path: str, *, body: Any = None, **query: str | bytes | int | None) -> Any:
        return self._api.ask(method, path, body=body, timeout=TIMEOUT, **query)

    def image(self, name: str) -> dict[str, Any]:
        """What the engine knows of an image. Raises ImageMissingError, with the command that brings it."""
        try:
            with explained(f"look at image {name}"):
                found: dict[str, Any] = self._ask("GET", f"/images/{quote(name)}/json")
        except GoneError as error:
            fix = "`cloned-proxy image build`" if name.startswith("cloned-") else f"`docker pull {name}`"
            if name.startswith("cloned-tool-"):
                fix = "`cloned-proxy image build` with the --npm and --pypi that made it"
            raise ImageMissingError(f"image {name} is not on this machine: {fix}") from error
        return found

    def remove_unnamed(self, label: str) -> None:
        """Removes what builds left behind: images without a name that carry `LABEL=VALUE`. What is needed stays."""
        filters = {"dangling": ["true"], "label": [label]}
        with explained("list images"):
            rows = self._ask("GET", "/images/json", filters=json.dumps(filters))
        for row in rows:
            self.remove_image(str(row["Id"]))

    def import_image(self, path: str, name: str) -> None:
        """A tar of a root file system as an image."""
        repository, _, tag = name.partition(":")
        with sdk_client(f"import {name}") as sdk, open(path, "rb") as tar:  # noqa: PTH123  a stream for the SDK
            sdk.import_image_from_data(tar, repository=repository, tag=tag or "latest")

    def images(self, pattern: str = "*", *, label: str | None = None) -> list[str]:
        """The names of images that fit a pattern of the engine's, such as `cloned-tool-*`, or that carry a label."""
        filters = {"label": [label]} if label else {"reference": [pattern]}
        with explained("list images"):
            rows = self._ask("GET", "/images/json", filters=json.dumps(filters))
        return sorted(name for row in rows for name in row["RepoTags"] or () if name != "<none>:<none>")

    def remove_image(self, name: str) -> None:
        """Takes the name away, and the image with it where nothing else needs it. One that has to stay is fine."""
        with contextlib.suppress(EngineError), explained(f"remove image {name}"):
            self._ask("DELETE", f"/images/{quote(name)}")

    def build(self, folder: str, *, target: str, tag: str, args: dict[str, str], labels: dict[str, str]) -> None:
        """Builds one target of a Dockerfile, without a network. Raises EngineError with the line that failed."""
        with sdk_client(f"build {tag}") as sdk:
            lines = sdk.build(
                path=folder,
                target=target,
                tag=tag,
                buildargs=args,
                labels=labels,
                network_mode="none",
                rm=True,
                decode=True,
            )
            for line in lines:
                if "error" in line:
                    raise EngineError(f"building {tag} failed: {str(line['error']).strip()}")
