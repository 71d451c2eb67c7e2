"""`.cloned/config.yaml`: every setting, its default and its bounds."""

from __future__ import annotations

import difflib
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from cloned_proxy.policy.terms.problem import DocumentPath, Problem
from cloned_proxy.policy.terms.units import SIZE_PATTERN
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.policy_bytes import MAX_BYTES
from cloned_proxy.store.files.strict_model import StrictModel
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.settings.fleet_settings import FleetSettings, is_url
from cloned_proxy.store.settings.listen_settings import ListenSettings
from cloned_proxy.store.settings.notify_settings import NotifySettings
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings

type Seconds = Annotated[float, Field(gt=0, le=86_400)]

type SizeText = Annotated[str, Field(pattern=SIZE_PATTERN)]
"""Bytes as text, such as `512m` or `8GiB`."""

_BASE_URL: Final = re.compile(r"https?://[^\s/?#@]+/?")
_MAX_PORT: Final = 65_535
_SMALLEST_NAMES: Final = 18
"""Prefix length: thousands of names want an address each, and an address is not given to two soon."""


class ProxySettings(StrictModel):
    max_connections: int = Field(default=20_000, ge=1, le=1_000_000)
    """Client connections at once; who comes then waits, and clients that ask for nothing make room."""
    max_head_bytes: int = Field(default=65_536, ge=1024, le=1_048_576)
    """Most bytes of the head of a request or response: its first line and all its fields, in HTTP/2 unpacked."""
    max_head_fields: int = Field(default=200, ge=10, le=2000)
    """Fields of a head."""
    head_timeout: Seconds = 10.0
    """From the first byte of a head to its end, and from accept to the first byte."""
    keep_alive_timeout: Seconds = 60.0
    """Between two requests of one client connection."""
    client_hello_timeout: Seconds = 10.0
    """From the answer to a CONNECT to the end of the client's ClientHello."""
    resolve_timeout: Seconds = 5.0
    """For a name to be looked up."""
    resolver_cache_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long the addresses of a name are kept; 0: never."""
    resolver_cache_entries: int = Field(default=4096, ge=1, le=1_000_000)
    """Names that are kept at once."""
    resolver_threads: int = Field(default=32, ge=1, le=256)
    """Lookups at once, in each worker. One caller has at most half of them."""
    connect_timeout: Seconds = 10.0
    """For a connection to an upstream, all its addresses together."""
    response_timeout: Seconds = 300.0
    """From the end of a request to the head of its response (plain and inspected HTTP)."""
    idle_timeout: Seconds = 900.0
    """A tunnel or body without a byte in either direction."""
    max_tunnel_seconds: Annotated[float, Field(gt=0)] = 86_400.0
    """How long a tunnel may be open, whatever passes in it."""
    shutdown_delay_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    """From SIGTERM, when `/readyz` says no, until nothing is accepted any more: time for a load balancer to notice."""
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long open flows may go on after SIGTERM before they are cut."""


class AuditSettings(StrictModel):
    durability: Literal["grouped", "strict"] = "grouped"
    """`strict` commits each decision before the dial."""
    queue: int = Field(default=10_000, ge=10, le=10_000_000)
    """Events that may wait for the disk. From half of it on, whoever has more than an equal share waits, too."""
    denials_per_minute: int = Field(default=600, ge=1, le=1_000_000_000)
    """Refused calls of one caller that are recorded one by one, where `limits` of its tool say nothing else, and of all
    callers without a valid credential together. What comes on top waits its turn, is answered 429 and counted."""
    retention_days: int = Field(default=90, ge=1, le=36_500)
    """Days that an entry of the log is kept."""
    max_mib: int = Field(default=2048, ge=16, le=16_777_216)
    """Mebibytes that state.db may take up; over it the oldest entries go before their time."""


class ApprovalSettings(StrictModel):
    timeout: Seconds = 900.0
    """Seconds that a request waits for a person."""
    requests_per_minute: int = Field(default=10, ge=1, le=10_000)
    """New requests of one tool; more are answered 429."""
    pending_per_tool: int = Field(default=20, ge=1, le=1000)
    """Requests of one tool that may wait for a person at once; more are answered 429."""
    pending: int = Field(default=200, ge=1, le=10_000)
    """Most requests that wait at once, of all tools together."""
    held_per_tool: int = Field(default=8, ge=1, le=1000)
    """Calls of one tool that may wait for an answer at once, in each worker (`hold:`); more are refused at once."""
    history_days: int = Field(default=90, ge=1, le=36_500)
    """How long decided requests stay listed; the audit log has its own retention."""


class ProjectSettings(StrictModel):
    writable: list[str] = Field(default_factory=list)
    """Paths of the project, such as `.vscode`, that are read-only otherwise, because programs of this machine act
    upon them by themselves."""


def _name_addresses(value: object) -> object:
    text = "off" if value is False else value  # what YAML makes of an `off` without quotes
    if text in ("auto", "off") or not isinstance(text, str):
        return text
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"write auto, off, or a network such as 127.128.0.0/9 ({error})") from error
    if network.prefixlen > _SMALLEST_NAMES or network.is_multicast or network.is_unspecified:
        raise ValueError(f"write a unicast network of /{_SMALLEST_NAMES} or larger, such as 127.128.0.0/9")
    if ipaddress.IPv4Address("127.0.0.1") in network:
        raise ValueError("127.0.0.1 is the slot's own; write 127.128.0.0/9")
    return text


type NameAddresses = Annotated[str, BeforeValidator(_name_addresses)]
"""Synthetic addresses for the names that programs in a slot look up: `auto`, `off`, or an IPv4 network."""


class SandboxSettings(StrictModel):
    """How tools are run (docs/settings.md#sandbox). Values alone: `settings_cache` gives them without this class."""

    image: str | None = None
    """Image of every tool that `images` does not name; None: the worker's own."""
    images: dict[str, str] = Field(default_factory=dict)
    """Tool id to image."""
    ca_files: list[str] = Field(default_factory=list)
    """PEM files with private CAs that tools are to trust, relative to the workspace."""
    network: str | None = None
    """Named network, weaker than the default; None: no network at all."""
    name_addresses: NameAddresses = "auto"
    """For programs that know no proxy. `auto`: a network that looks public where this process may use one, else off."""
    name_addresses_of: dict[str, NameAddresses] = Field(default_factory=dict)
    """Tool id to the same, for the tools that want something else."""
    worker: Literal["auto", "python", "node"] = "auto"
    """What runs the tools of a pipeline; `auto`: the worker for Node where the project has built one, else
    Python's."""
    cpus: float = Field(default=1.0, gt=0, le=256)
    """Processors of one tool."""
    project: ProjectSettings = ProjectSettings()
    """How a project is shown to a tool that may write it."""
    memory_mib: int = Field(default=512, ge=16, le=16_777_216)
    """MiB, as those below, of all of a tool's processes, with what is in its `/tmp` and in a home that is not kept."""
    tmp_mib: int = Field(default=64, ge=1, le=1_048_576)
    """`/tmp`, in memory, not executable."""
    home_mib: int = Field(default=256, ge=1, le=1_048_576)
    """The home, in memory, without `--home`."""
    kept_home_mib: int = Field(default=2048, ge=1, le=16_777_216)
    """The home of `--home`, on disk."""
    scratch_mib: int = Field(default=256, ge=1, le=16_777_216)
    """`/sandbox`, on disk, of each run."""
    pids: int = Field(default=256, ge=8, le=4_194_304)
    """Processes and threads."""
    open_files: int = Field(default=1024, ge=64, le=1_048_576)
    """Most open files of each process."""
    timeout: Seconds = 120.0
    """For one tool of a pipeline or of the library; `exec` has none unless it is asked for."""
    probe_interval: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    """Seconds between two escape probes of `serve` (the metric `isolation_probe_success`); 0: off. At least 30."""


class LlmSettings(StrictModel):
    """The local model of `llm up` (docs/local-model.md). What is None is the engine's own default.

    Values alone, as above.
    """

    engine: Literal["localai", "llama.cpp", "ollama", "vllm"] = "localai"
    """The program that serves the model; it decides what the keys below are when they are not set."""
    image: str | None = None
    """Image of the engine."""
    command: list[str] | None = None
    """Words behind the image's entrypoint."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of the engine, beside those that it gets from here."""
    port: int = Field(default=8080, ge=1, le=_MAX_PORT)
    """Where the engine listens in its own namespace; on the host it is 127.0.0.1:8080 all the same."""
    health: Annotated[str, Field(pattern=r"^/\S*$")] | None = None
    """The one path that answers 200 once the model is loaded."""
    memory: SizeText = "8g"
    """Memory of the container; more is killed, not swapped."""
    cpus: float = Field(default=4.0, gt=0, le=1024)
    """Processors that it may use, and the threads that the engine is told to start."""
    shm: SizeText | None = None
    """Size of `/dev/shm`."""
    cache: Annotated[str, Field(pattern=f"^(?:/.+|none|{SIZE_PATTERN[1:-1]})$")] | None = None
    """`/cache` in the container, the one place that may hold programs: a size makes an empty one in memory, a path of
    this host is mounted read-only, `none` leaves it out."""
    gpus: Annotated[int, Field(ge=1, le=64)] | Literal["all", "devices"] | None = None
    """A number or `all` through NVIDIA's container toolkit; `devices`: the device nodes themselves, without it."""


class VaultSettings(StrictModel):
    key: Literal["auto", "file", "keyring", "credential"] = "auto"
    """Where the vault's key is kept; `auto`: the systemd credential where there is one, else `.cloned/vault.key`."""


def _base_url(text: str) -> str:
    import httpx  # noqa: PLC0415  most workspaces have no collector, and `--help` need not wait for its import

    try:  # the same reader as the export's, so that what passes here can be called there
        url = httpx.URL(text)
        usable = _BASE_URL.fullmatch(text) is not None and url.host and (url.port is None or 0 < url.port <= _MAX_PORT)
    except (httpx.InvalidURL, ValueError):  # the second one for a host that IDNA does not know
        usable = False
    if not usable:  # not quoted: people put passwords into URLs
        raise ValueError(
            "this is not the base URL of a collector: scheme, host and at most a port; "
            "write one such as http://127.0.0.1:4318"
        )
    return text


class TelemetrySettings(StrictModel):
    otlp_endpoint: Annotated[str, AfterValidator(_base_url)] | None = None
    """Base URL of a collector for OTLP over HTTP, such as http://127.0.0.1:4318; needs the extra `otlp`. None: off."""


def _named_fleet(value: object) -> object:
    if value is None:  # a section whose lines were all taken out: whose policy would be in force is a guess
        raise ValueError("`fleet` is empty; write its `name` and `trust`, or take it out")
    return value


class Config(StrictModel):
    policy: str | None = None
    """Path of the policy file, relative to the workspace; the default is `policy.yaml` in it. In a fleet without a
    store: the file, or the https:// URL, of a signed envelope."""
    egress_proxy: str | None = None
    """URL where this workspace's clients find the proxy; None: the default address."""
    proxy: ProxySettings = ProxySettings()
    """Bounds of the listeners. Times are seconds, sizes bytes."""
    listen: ListenSettings = ListenSettings()
    """What stands between this proxy and its clients."""
    upstream: UpstreamSettings = UpstreamSettings()
    """The proxy in front of this one, through which everything goes that is allowed."""
    audit: AuditSettings = AuditSettings()
    """The log of decisions."""
    approvals: ApprovalSettings = ApprovalSettings()
    """Requests of tools for other rules. Bounds are for the whole workspace, whichever process is asked."""
    sandbox: SandboxSettings = SandboxSettings()
    """How tools are run."""
    llm: LlmSettings = LlmSettings()
    """The local model of `llm up`."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """Where the log is exported to."""
    vault: VaultSettings = VaultSettings()
    """Where the key of the vault is."""
    notify: NotifySettings = NotifySettings()
    """Who is told of a new denial, or of a new request of a tool."""
    fleet: Annotated[FleetSettings | None, BeforeValidator(_named_fleet)] = None
    """None: this proxy is in no fleet, and its policy is its own."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.policy is not None and is_url(self.policy):
            if not self.policy.startswith("https://") or any(each in self.policy for each in "@ #"):
                raise ValueError("`policy` is a path, or the https:// URL of a fleet's envelope, without a password")
            if self.fleet is None or self.fleet.store is not None:
                raise ValueError("`policy` is a URL: that is for a `fleet` (`name`, `trust`) without a `store`")
        return self


class ConfigError(StoreError):
    """A config.yaml that is not accepted; one line a problem, all of them."""

    def __init__(self, problems: tuple[Problem, ...], source: str) -> None:
        super().__init__("\n".join(f"{source}:{p.line or 1}: {p.path}: {p.message}" for p in problems))
        self.problems = problems


def load_config(path: Path) -> Config:
    """The settings in `path`; all defaults when there is no file or an empty one. Raises StoreError."""
    if not path.exists(follow_symlinks=False):
        return Config()
    document = read_document(read_regular_file(path, limit=MAX_BYTES, what="config file"), str(path))
    try:
        return Config.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        problems = tuple(
            _problem(entry["loc"], entry["type"], entry["msg"], document.lines) for entry in error.errors()
        )
        raise ConfigError(tuple(sorted(problems, key=lambda p: p.line or 0)), str(path)) from error


def _problem(place: DocumentPath, kind: str, message: str, lines: dict[DocumentPath, int]) -> Problem:
    text = (
        "unknown setting" + _nearest(place)
        if kind == "extra_forbidden"
        else message.removeprefix("Input ").removeprefix("Value error, ")
    )
    known = place
    while known and known not in lines:
        known = known[:-1]
    return Problem(".".join(str(part) for part in place) or "(file)", lines.get(known), text)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest(place: DocumentPath) -> str:
    section: type[BaseModel] = Config
    for part in place[:-1]:
        annotation = section.model_fields[str(part)].annotation
        sections = [each for each in (annotation, *get_args(annotation)) if _is_section(each)]
        if not sections:
            return ""
        section = sections[0]
    near = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(section.model_fields)}"
