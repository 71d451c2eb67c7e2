"""Packuments as npm's registries have them, and as somebody would make them who wants a young version chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloned_proxy.policy.terms.registry import Registry, RegistryKind
from cloned_proxy.proxy.inspection.registry.filtered import Filtered, MetadataError
from cloned_proxy.proxy.inspection.registry.npm import filter_packument, one_version
from cloned_proxy.proxy.inspection.registry.semver import newest, parse_semver
from tests.proxy.inspection.registry.shelf import DAY, at

NOW = 1_800_000_000.0
NPM = Registry(RegistryKind.NPM, 7 * DAY)
HOST = "https://registry.example.com"


def document(name: str = "left-pad", **ages: float | None) -> dict[str, Any]:
    """`v1_2_3=DAYS` for each version; None for one without a date."""
    versions, times = {}, {"created": at(0), "modified": at(NOW)}
    for word, days in ages.items():
        version = word.removeprefix("v").replace("__", "-").replace("_", ".")
        base = name.rpartition("/")[2]
        versions[version] = {
            "name": name, "version": version, "dist": {"tarball": f"{HOST}/{name}/-/{base}-{version}.tgz"}
        }  # fmt: skip
        if days is not None:
            times[version] = at(NOW - days * DAY)
    return {"name": name, "dist-tags": {"latest": list(versions)[-1]}, "versions": versions, "time": times}


def filtered(found: Any, package: str = "left-pad", covered: Any = lambda url: True) -> Filtered:
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    return filter_packument(body, package, registry=NPM, now=NOW, covered=covered)


def shown(found: Any, package: str = "left-pad") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(filtered(found, package).body)
    return read


def test_what_is_too_young_is_gone_with_its_time_and_its_tag() -> None:
    read = shown(document(v1_0_0=100, v1_1_0=8, v2_0_0=1))
    assert list(read["versions"]) == ["1.0.0", "1.1.0"]
    assert sorted(read["time"]) == ["1.0.0", "1.1.0", "created", "modified"]
    assert read["time"]["modified"] == at(NOW - 8 * DAY)
    assert read["dist-tags"] == {"latest": "1.1.0"}


def test_what_stays_is_copied_as_it_is_whatever_characters_it_has() -> None:
    found = document(v1_0_0=100, v2_0_0=1)
    found["versions"]["1.0.0"]["description"] = "größer 🙂 \u2028 \ud800"
    found["readme"] = 'a "quoted" {brace} ö'
    found["number"] = 9**999
    raw = json.dumps(found, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass")
    read = json.loads(filtered(raw).body.decode("utf-8", "surrogatepass"))
    assert read["number"] == found["number"]
    assert read["versions"]["1.0.0"] == found["versions"]["1.0.0"]
    assert read["readme"] == found["readme"]


def test_a_text_that_was_cut_inside_a_character_does_not_hide_its_package() -> None:
    found = document(v1_0_0=100, v2_0_0=1)
    found["readme"] = "cut here \ud83d"
    read = shown(found)
    assert list(read["versions"]) == ["1.0.0"]
    assert read["readme"] == "cut here \ufffd"


@pytest.mark.parametrize(
    "date",
    [None, at(NOW + 1), at(NOW + 400 * DAY), "2020-01-01T00:00:00", "last year", 1_500_000_000, ["2020-01-01T00:00Z"]],
)
def test_a_version_whose_date_is_missing_in_the_future_or_unreadable_is_not_shown(date: Any) -> None:
    found = document(v1_0_0=100, v2_0_0=100)
    found["time"]["2.0.0"] = date
    if date is None:
        del found["time"]["2.0.0"]
    assert list(shown(found)["versions"]) == ["1.0.0"]


def test_exactly_the_least_age_is_old_enough() -> None:
    assert list(shown(document(v1_0_0=7, v1_0_1=6.99))["versions"]) == ["1.0.0"]


@pytest.mark.parametrize(
    ("tag", "version", "moved"),
    [
        ("latest", "2.1.0", "2.0.0"),  # no pre-release, though 2.1.0-rc.1 is higher
        ("next", "3.0.0-beta.2", "3.0.0-beta.1"),
        ("v1", "1.9.1", "1.9.0"),
        ("latest", "0.0.1", "2.0.0"),  # nothing is below it, and npm cannot do without a latest
        ("old", "0.0.1", None),
        ("odd", 7, None),
    ],
)
def test_a_tag_moves_to_what_it_would_have_been_before(tag: str, version: Any, moved: str | None) -> None:
    found = document(
        v0_0_1=1, v1_9_0=50, v1_9_1=1, v2_0_0=40, v2_1_0=1, v2_1_0__rc_1=30, v3_0_0__beta_1=20, v3_0_0__beta_2=1
    )
    found["versions"]["2.1.0-rc.1"] = found["versions"].pop("2.1.0-rc.1")
    found["dist-tags"] = {tag: version}
    assert shown(found)["dist-tags"] == ({} if moved is None else {tag: moved})


def test_a_deprecated_version_is_not_moved_to_while_there_is_another() -> None:
    found = document(v1_0_0=100, v1_1_0=50, v2_0_0=1)
    found["versions"]["1.1.0"]["deprecated"] = "broken"
    assert shown(found)["dist-tags"] == {"latest": "1.0.0"}


def test_a_tag_of_a_version_that_is_shown_stays() -> None:
    found = document(v1_0_0=100, v2_0_0=50)
    found["dist-tags"] = {"latest": "1.0.0"}
    assert shown(found)["dist-tags"] == {"latest": "1.0.0"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"versions": {"1.0.0": {}}', b"not json", b'{"name": "left-pad"} {"time": {}}',
        b'{"name": "left-pad", "time": {}, "versions": []}', b"\xef\xbb\xbf{}", "{}".encode("utf-16"),
        b'{"time": {}, "time": {}}', b'{"time": {}, "\\u0074ime": {}}',
        b'{"time": {}, "versions": {"1.0.0": {}, "1.0.0": {}}}', b"[" * 200_000, b'{"a":' * 100_000,
        b'{"time": {}, "a": "\n"}', b'{"time": {}, "n": NaN}', b'{"time": []}', b'{"time": {}, "name": 7}',
    ],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_not_shown(body: bytes) -> None:
    with pytest.raises(MetadataError, match="not the JSON of a packument"):
        filtered(body)


def test_the_metadata_of_another_package_is_not_shown() -> None:
    with pytest.raises(MetadataError, match="another package"):
        filtered(document("right-pad", v1_0_0=100))


def test_the_abbreviated_packument_has_no_dates_and_is_not_shown() -> None:
    found = document(v1_0_0=100)
    del found["time"]
    with pytest.raises(MetadataError, match="no dates"):
        filtered(found)


@pytest.mark.parametrize(
    "url",
    [
        f"{HOST}/right-pad/-/right-pad-1.0.0.tgz", f"{HOST}/left-pad/../right-pad/-/x.tgz", f"{HOST}/x/-/y.tgz",
        f"{HOST}/left-pad//-/left-pad-1.0.0.tgz", f"{HOST}/@left-pad/left-pad/-/x.tgz", "file:///etc/passwd", "", "x",
        f"{HOST}/left-pad/-/..%2f..%2fright-pad/-/right-pad-2.0.0.tgz", "https://u:p@registry.example.com/left-pad/-/a",
    ],
)  # fmt: skip
def test_a_tarball_that_is_not_under_the_path_of_its_package_is_not_named_and_gets_no_date(url: str) -> None:
    found = document(v1_0_0=100, v1_1_0=100)
    found["versions"]["1.1.0"]["dist"]["tarball"] = url
    result = filtered(found)
    assert list(json.loads(result.body)["versions"]) == ["1.0.0"]
    assert list(result.dates.files) == ["registry.example.com:443/left-pad/-/left-pad-1.0.0.tgz"]


def test_a_tarball_that_two_versions_name_is_as_young_as_the_younger() -> None:
    found = document(v1_0_0=100, v1_1_0=1)
    found["versions"]["1.0.0"]["dist"] = found["versions"]["1.1.0"]["dist"]
    result = filtered(found)
    assert json.loads(result.body)["versions"] == {}
    assert [dated.published for dated in result.dates.files.values()] == [NOW - DAY]


def test_what_lies_on_a_host_that_no_rule_judges_is_left_out_and_told() -> None:
    result = filtered(document(v1_0_0=100), covered=lambda url: False)
    assert (result.kept, result.foreign) == (0, "registry.example.com")


def test_tarballs_inside_the_document_are_dropped() -> None:
    assert "_attachments" not in shown({**document(v1_0_0=100), "_attachments": {"x.tgz": {"data": "AAAA"}}})


def test_one_version_by_its_number_or_by_a_tag() -> None:
    body = filtered(document(v1_0_0=100, v2_0_0=1)).body
    assert json.loads(one_version(body, "latest") or b"")["version"] == "1.0.0"
    assert json.loads(one_version(body, "1.0.0") or b"")["version"] == "1.0.0"
    assert one_version(body, "2.0.0") is None


def test_scoped_packages_in_both_spellings_of_their_url() -> None:
    found = document("@acme/pad", v1_0_0=100, v1_1_0=100)
    found["versions"]["1.1.0"]["dist"]["tarball"] = f"{HOST}/@acme%2fpad/-/pad-1.1.0.tgz"
    result = filtered(found, "@acme/pad")
    assert sorted(result.dates.files) == [
        "registry.example.com:443/@acme/pad/-/pad-1.0.0.tgz",
        "registry.example.com:443/@acme/pad/-/pad-1.1.0.tgz",
    ]
    assert list(result.dates.spelled.values()) == ["/@acme%2fpad/-/pad-1.1.0.tgz"]


def test_the_order_of_versions_is_that_of_semver() -> None:
    order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
             "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0+build"]  # fmt: skip
    parsed = [parse_semver(text) for text in order]
    assert parsed == sorted(each for each in parsed if each is not None)
    assert newest(["1.0.0", "2.0.0-rc.1", "nonsense"]) == "1.0.0"
    assert newest(["2.0.0-rc.1", "2.0.0-rc.2"]) == "2.0.0-rc.2"
    assert newest([]) == ""
