"""What is built on NSS takes the database, and refuses without it. Judged by what reaches the server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from cloned_proxy.runner.trust.nss_database import CERTIFICATES, KEYS, nss_database
from cloned_proxy.runner.trust.trust import trust_binds, write_trust
from tests.runner.private_site import Site, private_site

CERTUTIL = shutil.which("certutil")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

needs_nss = pytest.mark.skipif(CERTUTIL is None, reason="no certutil: apt-get install libnss3-tools")
needs_firefox = pytest.mark.skipif(FIREFOX is None, reason="no Firefox: apt-get install firefox-esr")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with private_site() as site:
        yield site


def database(place: Path, *authorities: trustme.CA) -> Path:
    place.mkdir(parents=True)
    certificates = tuple(x509.load_pem_x509_certificate(ca.cert_pem.bytes()) for ca in authorities)
    for name, content in nss_database(certificates).items():
        (place / name).write_bytes(content)
    return place


def said(*words: str | Path, code: int = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


@needs_nss
def test_certutil_lists_each_once_and_takes_each_for_a_ca_of_servers_alone(tmp_path: Path) -> None:
    one, two = trustme.CA(), trustme.CA()
    place = f"sql:{database(tmp_path / 'db', one, two, one)}"
    listed = [line.split() for line in said("certutil", "-L", "-d", place).splitlines() if line.startswith("cloned-")]
    assert listed == [["cloned-0", "C,,"], ["cloned-1", "C,,"]]
    shown = said("certutil", "-L", "-d", place, "-n", "cloned-1", "-a").replace("\r", "")
    assert shown.startswith(two.cert_pem.bytes().decode())
    assert "is valid" in said("certutil", "-V", "-d", place, "-n", "cloned-0", "-u", "L")
    said("certutil", "-V", "-d", place, "-n", "cloned-0", "-u", "J", code=255)


@needs_nss
def test_a_ca_and_its_renewal_share_a_name_and_both_are_taken(tmp_path: Path) -> None:
    """NSS finds a certificate by its subject, and takes the newest one of that name."""
    renewed = [trustme.CA(organization_name="Acme", organization_unit_name="Root") for _ in range(2)]
    place = f"sql:{database(tmp_path / 'db', *renewed)}"
    assert said("certutil", "-L", "-d", place).count("cloned-0") == 2
    for number, ca in enumerate(renewed):
        leaf = tmp_path / f"{number}.pem"
        ca.issue_cert("a.example").cert_chain_pems[0].write_to_path(leaf)
        said("certutil", "-A", "-d", place, "-n", f"leaf-{number}", "-t", ",,", "-i", leaf)
        assert "is valid" in said("certutil", "-V", "-d", place, "-n", f"leaf-{number}", "-u", "V")


@needs_nss
def test_what_certutil_adds_to_it_stays_beside_ours(tmp_path: Path) -> None:
    place = f"sql:{database(tmp_path / 'db', trustme.CA())}"
    trustme.CA().cert_pem.write_to_path(tmp_path / "more.pem")
    said("certutil", "-A", "-d", place, "-n", "more", "-t", "C,,", "-i", tmp_path / "more.pem")
    assert [line.split()[0] for line in said("certutil", "-L", "-d", place).splitlines() if "C,," in line] == [
        "cloned-0",
        "more",
    ]


@needs_nss
def test_a_tls_client_of_nss_takes_a_server_by_it(site: Site, tmp_path: Path) -> None:
    for name, authority, code in (("with", site.ca, 0), ("without", trustme.CA(), 254)):
        place = database(tmp_path / name, authority)
        request = tmp_path / "request"
        request.write_text(f"GET /{name} HTTP/1.0\r\n\r\n")
        where = ["-h", "127.0.0.1", "-p", str(site.port), "-d", f"sql:{place}"]
        done = subprocess.run(["tstclnt", *where, "-A", request], capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stdout.endswith(b"private\n")) == (code, code == 0), done.stderr
        assert (site.seen.get(timeout=60) == f"/{name}") == (code == 0)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_chromium_takes_a_server_by_it(site: Site, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    shown = {}
    for name, authority in (("with", site.ca), ("without", trustme.CA())):
        database(tmp_path / name / ".pki" / "nssdb", authority)
        page = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--dump-dom", site.url]
        env = os.environ | {"HOME": str(tmp_path / name)}
        done = subprocess.run([CHROMIUM, *page], env=env, capture_output=True, check=False, timeout=100)
        shown[name] = b"private" in done.stdout
    assert shown == {"with": True, "without": False}


@pytest.mark.browser
@pytest.mark.slow
@needs_firefox
@pytest.mark.skipif(os.geteuid() != 0, reason="no namespace of mounts to be had")
@pytest.mark.parametrize("way", ["policy", "database", "none"])
def test_firefox_takes_a_server_by_its_policy_and_by_the_database(site: Site, tmp_path: Path, way: str) -> None:
    assert FIREFOX is not None
    trust, profile = tmp_path / "trust", tmp_path / "profile"
    trust.mkdir()
    profile.mkdir()
    write_trust(trust, site.pem, None)
    if way == "database":
        for name in (CERTIFICATES, KEYS):
            shutil.copyfile(trust / ".cloned-pki" / "nssdb" / name, profile / name)
    place = next(Path(mount.target) for mount in trust_binds(trust) if "firefox" in mount.target)
    policy = (trust / ".cloned-ca-mozilla.json").read_text()
    (tmp_path / "policies.json").write_text(policy.replace("/sandbox/", f"{trust}/"))  # there is no sandbox here
    lay = f"mkdir -p {place.parent} && cp {tmp_path}/policies.json {place} && " if way == "policy" else ""
    # In a namespace of mounts of its own: the Firefox of this machine sees the policy, and nobody else does.
    script = (
        f"mkdir {tmp_path}/up {tmp_path}/work && "
        f"mount -t overlay -o lowerdir=/etc,upperdir={tmp_path}/up,workdir={tmp_path}/work none /etc && {lay}"
        f"exec {FIREFOX} --headless --profile {profile} --screenshot {tmp_path}/page.png {site.url}/{way}"
    )
    (profile / "user.js").write_text('user_pref("network.proxy.type", 0);\n')
    site.forget()
    browser = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        env=os.environ | {"HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # Without trust it shows a page about that and goes on for ever; the server has been told by then.
        first = site.seen.get(timeout=100)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
    assert first == f"/{way}" if way != "none" else "UNKNOWN_CA" in first
