"""Builds of the native plane with one guard taken out, to show that the attacks on it are real.

The library that ships has no switch. Here its source is copied, each guard below gets one, and cargo builds that once
for every state of the source (seconds; kept in build/). `broken` then loads it with one of the guards out.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from cloned_proxy.proxy.plane import library

_ROOT: Final = Path(__file__).parents[3]
_SOURCE: Final = _ROOT / "plane"
_KEPT: Final = _ROOT / "build" / "broken-plane"

_GUARDS: Final = r"""
== one framing: request.rs
- framings > 1
+ (framings > 1 && !OUT)

== Host is the authority: request.rs
- if value != &data[self.authority.clone()] {
+ if !OUT && value != &data[self.authority.clone()] {

== each request has its own verdict: plain.rs
- key.extend_from_slice(&data[request.authority.clone()]);
+ let asked = &data[request.authority.clone()];
+ key.extend_from_slice(&if OUT { crate::switch::first(asked) } else { asked.to_vec() });

== no folded lines: request.rs
- let end = colon + 1 + data[colon + 1..].iter().position(|octet| !value_octet(*octet))?;
+ let mut end = colon + 1 + data[colon + 1..].iter().position(|octet| !value_octet(*octet))?;
+ while OUT && data[end..].starts_with(b"\r\n ") {
+     end += 2 + data[end + 2..].iter().position(|octet| !value_octet(*octet))?;
+ }

== no bare CR: request.rs
-             if !data[end..].starts_with(b"\r\n") {
+ let line_end = || data[colon..].windows(2).position(|two| two == b"\r\n");
+ let end = if OUT { colon + line_end()? } else { end };
+ if !data[end..].starts_with(b"\r\n") {

== chunk extensions end here: body.rs
-             self.open = true;
+ self.open = true;
+ if OUT { out.extend_from_slice(line); }
-                 self.open = false;
+ self.open = false;
+ if OUT { out.extend_from_slice(line); }
- pass(&data[at..at + bytes], rechunk, out);
+ pass(&data[at..at + bytes], rechunk && !OUT, out);

== trailers that frame end here: body.rs
- if fields::may_be_trailer(&line[..name]) {
+ if OUT || fields::may_be_trailer(&line[..name]) {

== interim responses are not the answer: response.rs
- self.status >= 200
+ self.status >= if OUT { 100 } else { 200 }

== no body behind HEAD: response.rs
- if to_head ||
+ if (to_head && !OUT) ||

== no body of 204 and 304: response.rs
- matches!(self.status, 204 | 304)
+ (!OUT && matches!(self.status, 204 | 304))

== a reset is no end of a body: exchange.rs
- Some(Body::Unsized)) && !broken {
+ Some(Body::Unsized)) && (OUT || !broken) {

== an early answer waits for its request: download.rs
- exchange.request.is_some() && !exchange.last)
+ !OUT && exchange.request.is_some() && !exchange.last)

== an early answer waits for its request: linger.rs
- let clean = whole && exchange.clean
+ let clean = (OUT || whole) && exchange.clean

== a moving response outlives a FIN: exchange.rs
- if flow.client.ending && self.now < soon
+ if !OUT && flow.client.ending && self.now < soon

== limits: plain.rs
- Some(id) if verdict.account.enter(
+ Some(id) if OUT || verdict.account.enter(

== a body is bounded by its length: body.rs
-                 *left -= bytes as u64;
-                 pass(&data[..bytes], rechunk, out);
+ let bytes = if OUT { data.len() } else { bytes };
+ *left = left.saturating_sub(bytes as u64);
+ pass(&data[..bytes], rechunk, out);

== a refusal is for one head: refuse.rs
- key.extend_from_slice(data);
+ key.extend_from_slice(&if OUT { crate::switch::first(data) } else { data.to_vec() });

== refusals have a budget: refuse.rs
- Some(id) if verdict.account.spend(
+ Some(id) if OUT || verdict.account.spend(

== a refusal ends with its policy: orders.rs
- self.verdicts.clear();
+ self.verdicts.retain(|_, verdict| OUT && !verdict.refusal.is_empty());

== what is given back is wiped: sys/memory.rs
- explicit_bzero(start.cast(), layout.size());
+ if !OUT { explicit_bzero(start.cast(), layout.size()); }

== the read buffer is wiped: connect.rs
- self.buffer[..count].fill(0);
+ if !OUT { self.buffer[..count].fill(0); }

== unsolicited bytes end a kept connection: kept.rs
- !side.readable || (
+ OUT || !side.readable || (

== some are kept for who has come in: accept.rs
- descriptors::is_among_the_last(client)
+ !OUT && descriptors::is_among_the_last(client)
"""
"""Name and file of each guard; what stands there once, and what stands there instead. `OUT`: whether it is out."""


class _Change(NamedTuple):
    guard: str
    file: str
    old: str
    new: str


def _changes() -> list[_Change]:
    changes = []
    for section in _GUARDS.split("\n== ")[1:]:
        title, _, rest = section.partition("\n")
        guard, _, file = title.partition(": ")
        old: list[str] = []
        new: list[str] = []
        for line in [*rest.splitlines(), "- "]:
            if line.startswith("- ") and new:
                changes.append(_Change(guard, file, "\n".join(old), "\n".join(new)))
                old, new = [], []
            if line:
                (old if line.startswith("- ") else new).append(line[2:])
    return changes


GUARDS: Final = tuple(dict.fromkeys(change.guard for change in _changes()))
OF_REFUSALS: Final = "a refusal is for one head", "refusals have a budget", "a refusal ends with its policy"
"""Those whose attacks are in test_native_refusals.py."""
OF_MEMORY: Final = "what is given back is wiped", "the read buffer is wiped"
"""Those whose attacks are in test_plane_wiped.py."""
OF_DESCRIPTORS: Final = ("some are kept for who has come in",)
"""Those whose attacks are in test_plane_descriptors.py."""
_SWITCH: Final = """
//! Which guard is out.
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Mutex;

static OUT: AtomicUsize = AtomicUsize::new(usize::MAX);
static FIRST: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[no_mangle]
pub extern "C" fn plane_break(which: usize) {
    OUT.store(which, SeqCst);
    FIRST.lock().unwrap().clear();
}

pub fn is_out(which: usize) -> bool {
    OUT.load(SeqCst) == which
}

/// What it was asked the first time.
pub fn first(text: &[u8]) -> Vec<u8> {
    let mut first = FIRST.lock().unwrap();
    if first.is_empty() {
        first.extend_from_slice(text);
    }
    first.clone()
}
"""
_AFTER_FIN: Final = "const AFTER_FIN: u64 = 4_000_000;", "const AFTER_FIN: u64 = 500_000;"
"""A test does not wait for four seconds."""


def _change(source: Path) -> None:
    for guard, file, old, new in (*_changes(), _Change("", "exchange.rs", *_AFTER_FIN)):
        path = source / "src" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: {old!r} stands there {text.count(old)} times"
        out = f"crate::switch::is_out({GUARDS.index(guard)})" if guard else ""
        path.write_text(text.replace(old, new.replace("OUT", out)))
    (source / "src" / "switch.rs").write_text(_SWITCH)
    top = source / "src" / "lib.rs"
    top.write_text(top.read_text().replace("mod abi;", "mod abi;\nmod switch;"))


def build() -> Path:
    """The library with a switch for each guard."""
    cargo = shutil.which("cargo")
    if cargo is None or not _SOURCE.is_dir():
        assert cargo or not os.environ.get("CI"), "what a broken plane would do cannot be tried: no cargo"
        pytest.skip("no cargo, or no checkout: what a broken plane would do was not tried")
    parts = sorted([*_SOURCE.rglob("src/**/*.rs"), Path(__file__)])
    built = _KEPT / (hashlib.sha256(b"\0".join(part.read_bytes() for part in parts)).hexdigest()[:16] + ".so")
    if not built.exists():
        _KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "plane"
            shutil.copytree(_SOURCE, source)
            _change(source)
            manifest = ("--manifest-path", source / "Cargo.toml", "--target-dir", scratch)
            subprocess.run([cargo, "build", "--quiet", "--offline", *manifest], check=True, timeout=600)
            for old in _KEPT.glob("*.so"):
                old.unlink()
            shutil.move(Path(scratch) / "debug" / library.NAME, built.with_suffix(".new"))
            built.with_suffix(".new").rename(built)
    return built


@pytest.fixture(scope="session")
def broken() -> Callable[[str], Path]:
    """Takes the guard of that name out of the library whose path it returns; "" puts all in their places."""
    path = build()
    switch = ctypes.CDLL(str(path)).plane_break
    switch.argtypes = (ctypes.c_size_t,)

    def take_out(name: str) -> Path:
        switch(GUARDS.index(name) if name else len(GUARDS))
        return path

    return take_out
