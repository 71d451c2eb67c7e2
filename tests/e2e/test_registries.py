"""Real package managers behind a rule with `registry`: by themselves they choose what is old enough."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.net import packages
from tests.net.attacks.attempt import gets_out
from tests.net.clients import installed, needed, pip, proxy_environment
from tests.net.proxy_process import ProxyOptions, ProxyProcess
from tests.net.world import ROOT, World

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]

_DAY = 86_400.0
_POLICY = f"""
version: 1
anonymous: global
global:
  allow:
    - {{host: {packages.NPM_HOST}, ports: [443], registry: {{kind: npm, min_age: 7d, index: /npm/}}}}
    - {{host: {packages.PYPI_HOST}, ports: [443], registry: {{kind: pypi, min_age: 7d}}}}
    - {{host: {packages.FILES_HOST}, ports: [443], registry: {{kind: pypi, min_age: 7d}}}}
"""
_NPM = f"https://{packages.NPM_HOST}/npm/"
_PYPI = f"https://{packages.PYPI_HOST}/simple/"
PACKAGERS = ROOT / "tests" / "e2e" / "packagers"
_YOUNG_TARBALL = "left-pad-2.0.0.tgz"
_YOUNG_WHEEL = "acme_pad-2.0-py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class Desk:
    """A directory of its own for one client, and how it gets out."""

    world: World
    directory: Path
    authorities: Path
    proxy: ProxyProcess

    def run(self, *command: str, direct: bool = False) -> CompletedProcess[str]:
        """Runs it in the directory, through the proxy unless `direct`."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        npm = dict.fromkeys((key for key in os.environ if key.lower().startswith("npm_")), "")
        bundle = str(self.authorities)
        out = {} if direct else proxy_environment(f"http://127.0.0.1:{self.proxy.port}")
        env = {
            **npm, **out, "HOME": str(home), "SSL_CERT_FILE": bundle, "NODE_EXTRA_CA_CERTS": bundle, "CI": "true",
            "npm_config_registry": _NPM, "npm_config_cafile": bundle, "npm_config_cache": str(home / "npm"),
            "npm_config_fund": "false", "npm_config_update_notifier": "false", "npm_config_fetch_retries": "0",
            "YARN_NPM_REGISTRY_SERVER": _NPM.rstrip("/"), "YARN_HTTPS_CA_FILE_PATH": bundle, "YARN_HTTP_RETRY": "0",
            "YARN_CACHE_FOLDER": str(home / "yarn"),
            "YARN_ENABLE_GLOBAL_CACHE": "false", "YARN_ENABLE_TELEMETRY": "0", "YARN_NODE_LINKER": "node-modules",
            "YARN_ENABLE_IMMUTABLE_INSTALLS": "false", "YARN_NPM_MINIMAL_AGE_GATE": "0",
            "UV_CACHE_DIR": str(home / "uv"), "UV_INDEX_URL": _PYPI, "UV_PYTHON_DOWNLOADS": "never",
        }  # fmt: skip
        if not direct:
            env |= {"YARN_HTTPS_PROXY": out["HTTPS_PROXY"], "npm_config_https_proxy": out["HTTPS_PROXY"]}
        return self.world.run(command, env=env, cwd=self.directory, timeout=120)

    def package(self, **dependencies: str) -> None:
        manifest = {"name": "app", "version": "1.0.0", "private": True, "dependencies": dependencies}
        (self.directory / "package.json").write_text(json.dumps(manifest))

    @property
    def version(self) -> str:
        """Of the package that is installed."""
        manifest = self.directory / "node_modules" / "left-pad" / "package.json"
        found: str = json.loads(manifest.read_text())["version"] if manifest.exists() else ""
        return found

    def asked_for(self, name: str) -> bool:
        """Whether any host was asked for a file of this name."""
        hosts = (packages.NPM_HOST, packages.FILES_HOST, packages.PYPI_HOST)
        return any(f"/{name} " in self.world.text_at(host, 443) for host in hosts)


@pytest.fixture(scope="module")
def proxy(world: World) -> Iterator[ProxyProcess]:
    now = time.time()
    packages.add_npm_package(
        world.content, "left-pad", {"1.0.0": now - 100 * _DAY, "1.1.0": now - 30 * _DAY, "2.0.0": now - _DAY}
    )
    packages.add_npm_package(world.content, "@acme/pad", {"1.0.0": now - 100 * _DAY, "1.1.0": now - _DAY})
    bulk = world.content / "npm" / "-" / "npm" / "v1" / "security" / "advisories" / "bulk"
    bulk.parent.mkdir(parents=True)
    bulk.write_text("{}")
    packages.add_pypi_project(
        world.content, "acme-pad", {"1.0": now - 100 * _DAY, "1.1": now - 30 * _DAY, "2.0": now - _DAY}
    )
    made = world.serve(_POLICY)
    yield made
    made.stop()


@pytest.fixture
def desk(fresh_world: World, proxy: ProxyProcess, tmp_path: Path) -> Desk:
    return _desk(fresh_world, proxy, tmp_path)


def _desk(world: World, proxy: ProxyProcess, directory: Path) -> Desk:
    bundle = directory / "both.pem"
    ca = Path(proxy.command("ca", "path").stdout.strip())
    bundle.write_text(world.certificate.read_text() + ca.read_text())
    return Desk(world, directory, bundle, proxy)


def _packagers() -> Path:
    return installed(PACKAGERS, "pnpm", "yarn", "@yarnpkg/cli-dist")


def _commands(client: str) -> Mapping[str, Sequence[str]]:
    """How each client adds a package, and installs what its lock file says."""
    node, modules = needed("node"), "" if client == "npm" else str(_packagers())
    npm, pnpm = [needed("npm")], [node, f"{modules}/pnpm/bin/pnpm.cjs"]
    yarn, berry = [node, f"{modules}/yarn/bin/yarn.js"], [node, f"{modules}/@yarnpkg/cli-dist/bin/yarn.js"]
    return {
        "npm": {"add": [*npm, "install", "left-pad", "--no-audit"], "locked": [*npm, "ci", "--no-audit"]},
        "pnpm": {"add": [*pnpm, "add", "left-pad"], "locked": [*pnpm, "install", "--frozen-lockfile"]},
        "yarn": {"add": [*yarn, "add", "left-pad"], "locked": [*yarn, "install", "--frozen-lockfile"]},
        "yarn berry": {"add": [*berry, "add", "left-pad"], "locked": [*berry, "install", "--immutable"]},
    }[client]


def _cleared(desk: Desk) -> None:
    """As on a fresh checkout of a project: the lock file, and nothing that was fetched."""
    desk.world.run(["rm", "-rf", *(str(desk.directory / name) for name in ("node_modules", "home", ".yarn"))])
    desk.world.reset()


@pytest.mark.parametrize(
    "client", ["npm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pnpm", "yarn", "yarn berry"))]
)
def test_a_client_for_node_chooses_the_older_version_and_cannot_be_made_to_take_the_young_one(
    desk: Desk, client: str
) -> None:
    commands = _commands(client)
    desk.package()
    if client == "yarn berry":
        (desk.directory / "yarn.lock").write_text("")
    done = desk.run(*commands["add"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert desk.version == "1.1.0"
    assert not desk.asked_for(_YOUNG_TARBALL)
    # What was locked installs again, with nothing but the lock file: the proxy dates the file by itself.
    _cleared(desk)
    done = desk.run(*commands["locked"])
    assert (done.returncode, desk.version) == (0, "1.1.0"), done.stdout + done.stderr
    # A lock file that names the young one, made where nobody looked.
    desk.package()
    for lock in ("package-lock.json", "pnpm-lock.yaml", "yarn.lock"):
        (desk.directory / lock).unlink(missing_ok=True)
    if client == "yarn berry":
        (desk.directory / "yarn.lock").write_text("")
    _cleared(desk)
    assert desk.run(*commands["add"], direct=True).returncode == 0
    assert desk.version == "2.0.0", "the control: without the proxy the young version is taken"
    assert desk.asked_for(_YOUNG_TARBALL)
    _cleared(desk)
    done = desk.run(*commands["locked"])
    assert done.returncode != 0
    assert desk.version == ""
    assert "403" in done.stdout + done.stderr
    assert not desk.asked_for(_YOUNG_TARBALL)


def test_npm_says_why_and_audits_and_publishes_by_the_methods_of_the_rule(desk: Desk) -> None:
    npm = needed("npm")
    desk.package()
    done = desk.run(npm, "install", "left-pad@2.0.0", "--no-audit")
    assert "ETARGET" in done.stderr
    done = desk.run(npm, "install", f"{_NPM}left-pad/-/{_YOUNG_TARBALL}", "--no-audit")
    assert "too_young: left-pad 2.0.0 is younger than 7d; newest that is old enough: 1.1.0" in done.stderr
    assert desk.run(npm, "install", "@acme/pad", "--no-audit").returncode == 0
    assert '"version": "1.0.0"' in (desk.directory / "node_modules" / "@acme" / "pad" / "package.json").read_text()
    assert "found 0 vulnerabilities" in desk.run(npm, "audit").stdout
    (desk.directory / "package.json").write_text(json.dumps({"name": "left-pad", "version": "3.0.0"}))
    published = desk.run(npm, "publish", "--//npm.example.com/npm/:_authToken=t", "--provenance=false")
    assert published.returncode == 0, published.stderr
    assert "PUT /npm/left-pad " in desk.world.text_at(packages.NPM_HOST, 443)


def test_a_lease_lets_a_package_through_for_a_while(desk: Desk) -> None:
    npm = needed("npm")
    desk.package()
    refused = desk.run("curl", "-sS", "--cacert", str(desk.authorities), f"{_NPM}left-pad/-/{_YOUNG_TARBALL}")
    hint = json.loads(refused.stdout)["hint"]
    command = hint.partition("; or cloned-proxy ")[2].split(" ")
    assert command[:2] == ["allow", packages.NPM_HOST]
    done = desk.proxy.command(*command)
    assert done.returncode == 0, done.stderr
    try:
        _until_it_passes(desk)
        done = desk.run(npm, "install", "left-pad", "--no-audit")
        assert (done.returncode, desk.version) == (0, "2.0.0"), done.stderr
    finally:
        desk.proxy.write_policy(_POLICY)


def _until_it_passes(desk: Desk) -> None:
    """The edit is on its way to the running proxy."""
    deadline = time.monotonic() + 60
    url = f"{_NPM}left-pad/-/{_YOUNG_TARBALL}"
    while desk.run("curl", "-sS", "--fail", "-o", "/dev/null", "--cacert", str(desk.authorities), url).returncode:
        assert time.monotonic() < deadline, "the lease never came into force"


def test_pip_chooses_the_older_version_and_takes_no_young_file_by_its_hash(desk: Desk) -> None:
    target = desk.directory / "site"
    proxy = f"http://127.0.0.1:{desk.proxy.port}"
    install = [*pip(), "--isolated", "--cert", str(desk.authorities), "--proxy", proxy, "install", "--no-deps"]
    install += ["--no-cache-dir", "--retries", "0", "--index-url", _PYPI, "--target", str(target)]
    done = desk.run(*install, "acme-pad")
    assert done.returncode == 0, done.stderr
    assert "1.1" in (target / "acme_pad.py").read_text()
    wheel = (desk.world.content / "wheelhouse" / _YOUNG_WHEEL).read_bytes()
    locked = desk.directory / "requirements.txt"
    digest = hashlib.sha256(wheel).hexdigest()
    files = f"https://{packages.FILES_HOST}/wheelhouse/"
    for line in (f"acme-pad==2.0 --hash=sha256:{digest}", f"{files}{_YOUNG_WHEEL} --hash=sha256:{digest}"):
        locked.write_text(line)
        assert desk.run(*install, "--upgrade", "--require-hashes", "-r", str(locked)).returncode != 0
    assert not desk.asked_for(_YOUNG_WHEEL)
    name = "acme_pad-1.0-py3-none-any.whl"
    digest = hashlib.sha256((desk.world.content / "wheelhouse" / name).read_bytes()).hexdigest()
    locked.write_text(f"{files}{name} --hash=sha256:{digest}")
    done = desk.run(*install, "--upgrade", "--require-hashes", "-r", str(locked))
    assert (done.returncode, "1.0" in (target / "acme_pad.py").read_text()) == (0, True), done.stderr


def test_uv_locks_and_syncs_the_older_version_and_refuses_a_lock_with_the_young_one(desk: Desk) -> None:
    uv = str(ROOT / ".uv" / "bin" / "uv")
    python = str(ROOT / ".venv" / "bin" / "python")
    (desk.directory / "pyproject.toml").write_text(
        '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.12"\ndependencies = ["acme-pad"]\n'
    )
    done = desk.run(uv, "lock", "--python", python)
    assert done.returncode == 0, done.stderr
    assert 'version = "1.1"' in (desk.directory / "uv.lock").read_text()
    done = desk.run(uv, "sync", "--frozen", "--python", python)
    assert done.returncode == 0, done.stderr
    (desk.directory / "uv.lock").unlink()
    _cleared(desk)
    assert desk.run(uv, "lock", "--python", python, direct=True).returncode == 0
    assert 'version = "2.0"' in (desk.directory / "uv.lock").read_text()
    desk.world.run(["rm", "-rf", str(desk.directory / "home"), str(desk.directory / ".venv")])
    desk.world.reset()
    done = desk.run(uv, "sync", "--frozen", "--python", python)
    assert done.returncode != 0
    assert "403" in done.stderr
    assert not desk.asked_for(_YOUNG_WHEEL)


_BROAD = f"{_POLICY.replace(packages.NPM_HOST, '"*.example.com"')}    - {packages.NPM_HOST}\n"
"""A rule for the whole host beside it, port 80 included, that is the closer one."""
_OLD_TARBALL = "left-pad-1.1.0.tgz"
ATTACKS = {
    "the age of files": f"{_NPM}left-pad/-/{_YOUNG_TARBALL}",
    "registries only by https": f"http://{packages.NPM_HOST}/npm/left-pad/-/{_YOUNG_TARBALL}",
    "an age that no broad rule takes away": f"{_NPM}left-pad/-/{_YOUNG_TARBALL}",
    # A registry that reads the query: it is judged without it, and so it goes on without it.
    "the path that was judged": f"{_NPM}left-pad/-/{_OLD_TARBALL}?file={_YOUNG_TARBALL}",
}


@pytest.fixture(scope="module")
def beside_a_broad_rule(world: World) -> Iterator[ProxyProcess]:
    made = world.serve(_BROAD)
    yield made
    made.stop()


@pytest.mark.parametrize("guard", ATTACKS)
def test_the_attack_succeeds_without_its_guard_alone(
    fresh_world: World, beside_a_broad_rule: ProxyProcess, tmp_path: Path, guard: str
) -> None:
    broken = fresh_world.serve(_BROAD, ProxyOptions(without=(guard,)))

    def arrives(proxy: ProxyProcess) -> bool:
        fresh_world.reset()
        desk = _desk(fresh_world, proxy, tmp_path)
        desk.run("curl", "-sS", "-o", "got", "--cacert", str(desk.authorities), ATTACKS[guard])
        return any(f"{_YOUNG_TARBALL} " in fresh_world.text_at(packages.NPM_HOST, port) for port in (80, 443))

    assert gets_out(lambda: arrives(broken))
    assert not arrives(beside_a_broad_rule)
    broken.stop()
