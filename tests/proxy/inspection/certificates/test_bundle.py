"""The bundle of the system's roots and the workspace CA."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
import trustme

from cloned_proxy.proxy.inspection.certificates import bundle
from cloned_proxy.proxy.inspection.certificates.authority import Authority
from cloned_proxy.proxy.inspection.certificates.bundle import refresh_bundle
from cloned_proxy.proxy.inspection.certificates.ca import certificate_path, install_hint
from cloned_proxy.store.files.errors import StoreError


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "roots.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    monkeypatch.setattr(bundle, "_ROOTS", (str(tmp_path / "missing"), str(path)))
    return path


def _trusted(path: Path) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(path))
    return len(context.get_ca_certs())


def test_it_holds_the_systems_roots_and_the_workspace_ca_and_is_private(tmp_path: Path, roots: Path) -> None:
    Authority.open(tmp_path / "ca")
    path = refresh_bundle(tmp_path / "ca")
    assert _trusted(path) == 2
    assert path.read_bytes().endswith(certificate_path(tmp_path / "ca").read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_follows_its_parts_and_is_left_alone_otherwise(tmp_path: Path, roots: Path) -> None:
    Authority.open(tmp_path / "ca")
    path = refresh_bundle(tmp_path / "ca")
    before = path.stat().st_ino
    assert refresh_bundle(tmp_path / "ca").stat().st_ino == before
    trustme.CA().cert_pem.write_to_path(str(roots), append=True)
    assert _trusted(refresh_bundle(tmp_path / "ca")) == 3


def test_the_variable_that_names_the_bundle_is_not_where_the_roots_come_from(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert bundle._compiled_in() != str(roots)


def test_no_variable_that_replaces_the_roots_names_the_ca_alone(tmp_path: Path) -> None:
    exports = [line for line in install_hint(tmp_path).splitlines() if line.startswith("export ")]
    alone = {line.split()[1].partition("=")[0] for line in exports if str(certificate_path(tmp_path)) in line}
    assert alone == {"NODE_EXTRA_CA_CERTS"}
    assert len(exports) == 6


def test_a_machine_without_roots_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Authority.open(tmp_path / "ca")
    monkeypatch.setattr(bundle, "_ROOTS", ())
    monkeypatch.setattr(bundle, "_compiled_in", lambda: str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="ca-certificates"):
        refresh_bundle(tmp_path / "ca")
