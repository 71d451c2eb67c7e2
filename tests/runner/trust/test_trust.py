"""Private CAs: real clients take a server of one, in each form in which a sandbox names it, and refuse it without."""

from __future__ import annotations

import os
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.files.homes import link_nss
from cloned_proxy.runner.trust.trust import read_ca_files, trust_binds, write_trust
from cloned_proxy.runner.values.environment import JAVA_OPTIONS, ca_environment, with_java_options
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import Mount
from tests.runner.conftest import start_serving
from tests.runner.jobs import TOOL
from tests.runner.private_site import Site, private_site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FETCH = """\
public class Fetch {
  public static void main(String[] words) throws Exception {
    System.out.print(new String(new java.net.URL(words[0]).openStream().readAllBytes()));
  }
}
"""
IN_THE_SANDBOX = [
    ("curl", "curl -sS {url}"),
    ("python", "python3 -c \"import urllib.request as u; print(u.urlopen('{url}').read().decode(), end='')\""),
    ("node", "node -e \"fetch('{url}').then(a => a.text()).then(t => process.stdout.write(t))\""),
    ("system", "cmp $SSL_CERT_FILE /etc/ssl/certs/ca-certificates.crt && echo private"),
    ("uv", "uv pip install --no-cache --target /sandbox/x {url}/x-1.0-py3-none-any.whl 2>&1 | grep -c UnknownIssuer"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with private_site() as site:
        yield site


def test_the_bundle_has_the_public_roots_the_private_ones_and_the_workspaces_own(tmp_path: Path) -> None:
    one, two = (trustme.CA().cert_pem.bytes().decode() for _ in range(2))
    bundle = write_trust(tmp_path, one, two).read_text()
    assert (bundle.count(one), bundle.count(two), bundle.count("BEGIN CERTIFICATE") > 100) == (1, 1, True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.pop(".cloned-pki") == 0o777
    assert set(modes.values()) == {0o444}


@pytest.mark.parametrize(
    ("mounted", "left_out"),
    [
        ("/home/tool/.pki", {"/home/tool/.pki"}),
        ("/home/tool/.pki/nssdb/", {"/home/tool/.pki"}),
        ("/home/tool/.pkix", set()),
        ("/etc/ssl", {"/etc/ssl/certs/ca-certificates.crt"}),
        ("/etc/firefox/policies/policies.json", {"/etc/firefox/policies/policies.json"}),
    ],
)
def test_nothing_is_laid_over_or_into_what_somebody_mounts(tmp_path: Path, mounted: str, left_out: set[str]) -> None:
    every, shown = ({each.target for each in trust_binds(tmp_path, mounts)} for mounts in ((), [Mount("/x", mounted)]))
    assert every - shown == left_out
    kept = {each.target for each in trust_binds(tmp_path, home_in_memory=False)}
    assert every - kept == {"/home/tool/.pki"}


def test_a_kept_home_has_a_link_while_there_are_private_cas_and_keeps_what_is_its_own(tmp_path: Path) -> None:
    link = tmp_path / ".pki"
    for _ in range(2):
        link_nss(tmp_path, wanted=True)
        assert link.readlink() == Path("/sandbox/.cloned-pki")
    for _ in range(2):
        link_nss(tmp_path, wanted=False)
        assert not link.is_symlink()
    own = tmp_path / "own"
    own.mkdir()
    for make in (lambda: link.symlink_to(own), lambda: link.write_text("mine"), link.mkdir):
        make()
        before = link.lstat()
        for wanted in (True, False):
            link_nss(tmp_path, wanted=wanted)
        assert link.lstat() == before
        link.rmdir() if link.is_dir() and not link.is_symlink() else link.unlink()
    home = tmp_path / "home"
    home.symlink_to(own)
    with pytest.raises(NotADirectoryError):
        link_nss(home, wanted=True)


def test_ca_files_are_read_from_beside_the_workspace_and_told_apart(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "one.pem")
    assert read_ca_files(["one.pem", str(tmp_path / "one.pem")], tmp_path).count("BEGIN CERTIFICATE") == 2
    (tmp_path / "der").write_bytes(ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode()))
    ca.private_key_pem.write_to_path(tmp_path / "key")
    for name, message in [
        ("missing", "there is no CA file"),
        ("der", "openssl x509 -inform der"),
        ("key", "holds a private key"),
        (".", "not a regular file"),
    ]:
        with pytest.raises(SandboxInputError, match=message) as caught:
            read_ca_files([name], tmp_path)
        assert str(tmp_path / name) in str(caught.value)


def test_options_for_java_come_behind_the_sandboxs_own() -> None:
    own = ca_environment("/sandbox/.cloned-ca.pem")
    asked = {JAVA_OPTIONS: "-Xmx64m", "A": "b"}
    assert with_java_options(own, asked) == {"A": "b", JAVA_OPTIONS: f"{own[JAVA_OPTIONS]} -Xmx64m"}
    assert with_java_options({}, asked) == asked


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java on this machine")
def test_java_takes_the_trust_store(site: Site, tmp_path: Path) -> None:
    (tmp_path / "Fetch.java").write_text(FETCH)
    bundle = write_trust(tmp_path, site.pem, None)
    asked = {}
    for name, env in (("with", ca_environment(str(bundle))), ("without", {})):
        plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        asked[name] = subprocess.run(
            ["java", "Fetch.java", site.url],
            cwd=tmp_path,
            env=plain | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert asked["with"].stdout == "private\n", asked["with"].stderr
    assert "unable to find valid certification path" in asked["without"].stderr


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None or os.geteuid() != 0, reason="no browser, or no namespace of mounts to be had")
def test_chromium_takes_the_policy(site: Site, tmp_path: Path) -> None:
    write_trust(tmp_path, site.pem, None)
    policy = next(mount for mount in trust_binds(tmp_path) if "chromium" in mount.target)
    assert CHROMIUM is not None
    page = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--dump-dom", site.url]
    shown = {}
    for name, source in (("with", policy.source), ("without", "/dev/null")):
        profile = tmp_path / name
        profile.mkdir()
        place = Path(policy.target)
        # In a namespace of mounts of its own: the browser of this machine sees the policy, and nobody else does.
        script = (
            "mount -t tmpfs none /etc/chromium && "
            f"mkdir -p {place.parent} && cp {shlex.quote(source)} {place} && exec {shlex.join(page)}"
        )
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env=os.environ | {"HOME": str(profile)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        shown[name] = done.stdout
    assert ("private" in shown["with"], "private" in shown["without"]) == (True, False), shown


@pytest.fixture(scope="module")
def project(images: Engine, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    workspace = tmp_path_factory.mktemp("trust") / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    (workspace / "policy.yaml").write_text(
        f"version: 1\ntools:\n  {TOOL}:\n    allow: [{{host: 127.0.0.1, ports: [{site.port}]}}]\n"
    )
    (workspace / "company.pem").write_text(site.pem)
    serving = start_serving(workspace)
    yield workspace
    serving.stop()


NSS_IN_THE_SANDBOX = """\
import json, os, pathlib, sqlite3, ssl, sys
home = pathlib.Path.home()
with sqlite3.connect(home / ".pki/nssdb/cert9.db") as database:
    [(der,)] = database.execute("SELECT a11 FROM nssPublic WHERE a11 IS NOT NULL")
    database.execute("UPDATE nssPublic SET a3 = a3")  # Chromium opens no database that it cannot write
policy = json.loads(pathlib.Path("/etc/firefox/policies/policies.json").read_text())
[named] = policy["policies"]["Certificates"]["Install"]
company = ssl.PEM_cert_to_DER_cert(sys.argv[1])
print([der == company, ssl.PEM_cert_to_DER_cert(pathlib.Path(named).read_text()) == company])
print([each.name for each in home.iterdir()], os.path.islink(home / ".pki"))
"""


@pytest.mark.docker
def test_nss_and_firefox_find_it_in_both_kinds_of_home(project: Path, site: Site) -> None:
    words = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", str(project)]
    script = ["--", "python3", "-c", NSS_IN_THE_SANDBOX, site.pem]
    config = project / "config.yaml"
    config.write_text("sandbox: {ca_files: [company.pem]}\n")
    try:
        said = [
            subprocess.run(
                [*words, *home, TOOL, *script], capture_output=True, text=True, check=True, timeout=100
            ).stdout
            for home in ([], ["--home"], ["--home"])
        ]
    finally:
        config.unlink()
    there = "[True, True]\n['.pki'] {}\n".format
    assert said == [there(False), there(True), there(True)]
    done = subprocess.run(
        [*words, "--home", TOOL, "--", "ls", "-A"], capture_output=True, text=True, check=True, timeout=100
    )
    assert ".pki" not in done.stdout


@pytest.mark.docker
def test_clients_in_the_sandbox_take_it_by_their_variables(project: Path, site: Site) -> None:
    script = "; ".join(f"echo {name}: $({command.format(url=site.url)})" for name, command in IN_THE_SANDBOX)
    words = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", str(project), TOOL, "--", "sh", "-c"]
    wanted = ["curl: private", "python: private", "node: private", "system: private", "uv: 0"]
    config = project / "config.yaml"
    config.write_text("sandbox: {ca_files: [company.pem]}\n")
    done = subprocess.run([*words, script], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout.splitlines() == wanted, done.stderr
    config.unlink()
    done = subprocess.run([*words, script], capture_output=True, text=True, check=False, timeout=100)
    assert [line for line in done.stdout.splitlines() if line in wanted] == [], done.stderr
