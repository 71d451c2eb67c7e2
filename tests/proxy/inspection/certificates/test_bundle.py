"""The bundle of the system's roots and the workspace CA."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
import trustme

from cloned_proxy.proxy.inspection.certificates.bundle import refresh_bundle
from cloned_proxy.proxy.inspection.certificates.ca import certificate_path, install_hint
from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority
from cloned_proxy.runner.trust.trust import write_trust
from cloned_proxy.store.files import roots as roots_of_machine
from cloned_proxy.store.files.errors import StoreError


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "roots.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    monkeypatch.setattr(roots_of_machine, "_ROOTS", (str(tmp_path / "missing"), str(path)))
    return path


def _trusted(path: Path) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(path))
    return len(context.get_ca_certs())


def test_it_holds_the_systems_roots_and_the_workspace_ca_and_is_private(tmp_path: Path, roots: Path) -> None:
    CertificateAuthority.open(tmp_path / "ca")
    path = refresh_bundle(tmp_path / "ca")
    assert _trusted(path) == 2
    assert path.read_bytes().endswith(certificate_path(tmp_path / "ca").read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_follows_its_parts_and_is_left_alone_otherwise(tmp_path: Path, roots: Path) -> None:
    CertificateAuthority.open(tmp_path / "ca")
    path = refresh_bundle(tmp_path / "ca")
    before = path.stat().st_ino
    assert refresh_bundle(tmp_path / "ca").stat().st_ino == before
    trustme.CA().cert_pem.write_to_path(str(roots), append=True)
    assert _trusted(refresh_bundle(tmp_path / "ca")) == 3


def test_the_variable_that_names_the_bundle_is_not_where_the_roots_come_from(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert roots_of_machine._compiled_in() != str(roots)


def test_no_variable_that_replaces_the_roots_names_the_ca_alone(tmp_path: Path) -> None:
    exports = [line for line in install_hint(tmp_path).splitlines() if line.startswith("export ")]
    alone = {line.split()[1].partition("=")[0] for line in exports if str(certificate_path(tmp_path)) in line}
    assert alone == {"NODE_EXTRA_CA_CERTS"}
    assert len(exports) == 6


def test_a_machine_without_roots_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CertificateAuthority.open(tmp_path / "ca")
    monkeypatch.setattr(roots_of_machine, "_ROOTS", ())
    monkeypatch.setattr(roots_of_machine, "_compiled_in", lambda: str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="ca-certificates"):
        refresh_bundle(tmp_path / "ca")


def test_a_sandboxed_tool_trusts_what_a_host_tool_trusts(tmp_path: Path, roots: Path) -> None:
    CertificateAuthority.open(tmp_path / "ca")
    roots.write_bytes("# Türk\n".encode() + roots.read_bytes())  # comments of a distribution are in UTF-8
    workspace_ca = certificate_path(tmp_path / "ca").read_text()
    (tmp_path / "scratch").mkdir()
    inside = write_trust(tmp_path / "scratch", "", workspace_ca)
    assert _certificates(inside) == _certificates(refresh_bundle(tmp_path / "ca"))


def test_a_root_that_cannot_be_read_costs_no_other(tmp_path: Path, roots: Path) -> None:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    roots.write_text(f"{begin}\nAAAA\n{end}\n{roots.read_text()}")
    (tmp_path / "scratch").mkdir()
    own = trustme.CA().cert_pem.bytes().decode()
    assert len(_certificates(write_trust(tmp_path / "scratch", own, None))) == 2


def _certificates(path: Path) -> set[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(path))
    return set(context.get_ca_certs(binary_form=True))
