"""Project pages of PyPI's simple API and its per-project JSON."""

from __future__ import annotations

import gzip
import html.parser
import json
from typing import Any

import pytest

from cloned_proxy.policy.terms.registry import Registry, RegistryKind
from cloned_proxy.proxy.inspection.registry.encoding import decoded
from cloned_proxy.proxy.inspection.registry.filtered import Filtered, MetadataError
from cloned_proxy.proxy.inspection.registry.pypi import as_html, filter_project, filter_simple, newest, wants_json
from tests.proxy.inspection.registry.shelf import DAY, at

NOW = 1_800_000_000.0
PYPI = Registry(RegistryKind.PYPI, 7 * DAY, (), "/simple/")
BASE = "https://pypi.example.com/simple/acme-pad/"
FILES = "https://files.example.com/packages/"


def file(name: str, days: float | None, **more: Any) -> dict[str, Any]:
    date = {} if days is None else {"upload-time": at(NOW - days * DAY)}
    return {"filename": name, "url": FILES + name, "hashes": {"sha256": "0" * 64}, **date, **more}


def page(*files: dict[str, Any]) -> dict[str, Any]:
    return {"meta": {"api-version": "1.1"}, "name": "acme-pad", "versions": ["9"], "files": list(files)}


def filtered(found: Any, covered: Any = lambda url: True) -> Filtered:
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    return filter_simple(body, "acme-pad", base=BASE, registry=PYPI, now=NOW, covered=covered)


def names(found: Any) -> list[str]:
    return [each["filename"] for each in json.loads(filtered(found).body)["files"]]


def test_each_file_is_judged_by_its_own_date() -> None:
    """A wheel that somebody adds to an old release is young."""
    found = page(
        file("acme_pad-1.0.tar.gz", 100), file("acme_pad-1.0-py3-none-any.whl", 1), file("acme_pad-2.0.tar.gz", None)
    )
    result = json.loads(filtered(found).body)
    assert [each["filename"] for each in result["files"]] == ["acme_pad-1.0.tar.gz"]
    assert result["versions"] == ["1.0"]


@pytest.mark.parametrize("date", ["2020-01-01T00:00:00", "", None, 5, at(NOW + 1), "2020"])
def test_a_date_that_is_none_hides_the_file(date: Any) -> None:
    assert names(page({**file("acme_pad-1.0.tar.gz", 1), "upload-time": date})) == []


@pytest.mark.parametrize(
    "name",
    ["other-1.0.tar.gz", "acme_pad-1.0.egg", "acme_pad.tar.gz", "acme-pad-extra-1.0.tar.gz", "acme_pad-1.0.whl", ""],
)
def test_what_is_no_file_of_the_project_by_its_name_is_not_named(name: str) -> None:
    assert names(page(file(name, 100))) == []


@pytest.mark.parametrize(
    "url",
    [FILES + "other-1.0.tar.gz", FILES + "acme_pad-1.0.tar.gz/../other-1.0.tar.gz", "javascript:alert(1)", "//", 7,
     FILES + "..%2fother-1.0.tar.gz"],
)  # fmt: skip
def test_a_url_that_names_another_file_is_not_there(url: Any) -> None:
    result = filtered(page({**file("acme_pad-1.0.tar.gz", 100), "url": url}))
    assert (json.loads(result.body)["files"], dict(result.dates.files)) == ([], {})


def test_relative_urls_become_absolute() -> None:
    found = page({**file("acme_pad-1.0.tar.gz", 100), "url": "../../packages/acme_pad-1.0.tar.gz"})
    (only,) = json.loads(filtered(found).body)["files"]
    assert only["url"] == "https://pypi.example.com/packages/acme_pad-1.0.tar.gz"


def test_a_file_that_is_listed_twice_is_as_young_as_the_younger() -> None:
    result = filtered(page(file("acme_pad-1.0.tar.gz", 1), file("acme_pad-1.0.tar.gz", 100)))
    assert json.loads(result.body)["files"] == []
    assert [each.published for each in result.dates.files.values()] == [NOW - DAY]


@pytest.mark.parametrize(
    "body", [b"<html></html>", b"[]", b'{"files": 1}', b'{"files": [], "files": []}', b"[" * 99_999]
)
def test_what_is_not_the_json_of_a_page_is_not_shown(body: bytes) -> None:
    with pytest.raises(MetadataError):
        filtered(body)


def test_files_where_no_rule_judges_are_left_out_and_told() -> None:
    result = filtered(page(file("acme_pad-1.0.tar.gz", 100)), covered=lambda url: False)
    assert (result.kept, result.foreign) == (0, "files.example.com")


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))
        assert tag in {"html", "head", "meta", "title", "body", "h1", "a", "br"}


def test_the_page_in_html_says_all_that_the_json_does_and_nothing_more() -> None:
    odd = file(
        "acme_pad-1.0.tar.gz", 100, **{"requires-python": '>=3"><script>', "yanked": "<b>", "core-metadata": True}
    )
    body = filtered(page(odd, file("acme_pad-1.1.tar.gz", 1))).body
    links = _Links()
    links.feed(as_html(body, "acme-pad").decode())
    assert links.found == [
        {
            "href": f"{FILES}acme_pad-1.0.tar.gz#sha256={'0' * 64}",
            "data-requires-python": '>=3"><script>',
            "data-yanked": "<b>",
            "data-core-metadata": "true",
            "data-dist-info-metadata": "true",
        }
    ]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ([], False),
        (["*/*"], False),
        (["text/html"], False),
        (["application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"], True),
        (["application/vnd.pypi.simple.v1+html, application/vnd.pypi.simple.v1+json;q=0.5"], False),
        (["application/vnd.pypi.simple.v1+json;q=0"], False),
        (["application/vnd.pypi.simple.v1+json;q=x", "text/html;q=0.1"], False),
    ],
)
def test_a_client_gets_the_form_that_it_prefers(accept: list[str], wanted: bool) -> None:
    assert wants_json(accept) is wanted


def test_the_json_of_a_project_shows_no_release_and_no_description_of_one_that_is_too_young() -> None:
    def entry(name: str, days: float) -> dict[str, Any]:
        return {"filename": name, "url": FILES + name, "upload_time_iso_8601": at(NOW - days * DAY)}

    old, young = entry("acme_pad-1.0.tar.gz", 100), entry("acme_pad-2.0.tar.gz", 1)
    found = {
        "info": {"name": "acme-pad", "version": "2.0", "description": "young"},
        "releases": {"1.0": [old], "2.0": [young], "1.5": []},
        "urls": [young],
    }
    body = json.dumps(found).encode()
    result = filter_project(body, "acme-pad", base=BASE, registry=PYPI, now=NOW, covered=lambda url: True)
    read = json.loads(result.body)
    assert (list(read["releases"]), read["urls"]) == (["1.0"], [old])
    assert read["info"] == {"name": "acme-pad", "version": "1.0"}


def test_the_newest_is_that_of_pep_440() -> None:
    assert newest(["1.0", "1.10", "1.9", "2.0rc1", "nonsense"]) == "1.10"
    assert newest(["2.0rc1", "2.0rc2"]) == "2.0rc2"


def test_a_body_is_decompressed_within_the_limit_and_in_no_other_coding() -> None:
    zipped = gzip.compress(b"a" * 5000)
    assert decoded(zipped, ["gzip"]) == b"a" * 5000
    assert decoded(b"x", ["identity"]) == b"x"
    for body, coding, problem in (
        (zipped, "br", "encoding"),
        (zipped, "gzip, gzip", "encoding"),
        (zipped[:-4], "gzip", "cut off"),
        (zipped + b"more", "gzip", "cut off"),
        (b"plain", "gzip", "decompressed"),
    ):
        with pytest.raises(MetadataError, match=problem):
            decoded(body, [coding])
    with pytest.raises(MetadataError, match="more than 0 MiB"):
        decoded(zipped, ["gzip"], limit=4999)
    with pytest.raises(MetadataError, match="more than 0 MiB"):
        decoded(b"a" * 5000, [], limit=4999)
