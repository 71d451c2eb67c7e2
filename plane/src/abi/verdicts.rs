//! What the plane may grant and refuse: published and taken back.

use super::{bytes, Plane, ROWS};
use crate::cells::{Account, Cells, Limits, ACCOUNT_WIDTH, DENIALS_WIDTH};
use crate::shared::Order;
use crate::sys;
use crate::verdict::{Counts, Plain, Verdict, ID};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

const NO_LIMIT: u64 = u64::MAX;
const REFUSAL_PIECES: usize = 4;

#[repr(C)]
pub struct Publication {
    number: u32,
    needs_hello: bool,
    literal: bool,
    plain: bool,
    pool: u32,
    response_timeout: u64,
    expires: u64,
    account: *const u64,
    concurrent: u64,
    requests_per_minute: u64,
    bytes_per_hour: u64,
}

/// `content`: parts with 0x1e between them: addresses with their port (a comma between), host, the end of the entry of
/// an end, the Host field of plain requests (else nothing), what the proxy in front is told, and the entry of the decision
/// in its parts. Null when it is not that.
#[no_mangle]
pub unsafe extern "C" fn plane_publish(
    plane: &Plane,
    key: *const u8,
    key_length: usize,
    what: &Publication,
    content: *const u8,
    length: usize,
) -> *const Verdict {
    let key = bytes(key, key_length).to_vec();
    let parts: Vec<&[u8]> = bytes(content, length).split(|octet| *octet == 0x1e).collect();
    let addresses: Option<Vec<SocketAddr>> = match parts.first() {
        Some(list) => String::from_utf8_lossy(list).split(',').map(|one| one.parse().ok()).collect(),
        None => None,
    };
    let addresses = match addresses {
        Some(addresses) if parts.len() == if what.plain { 11 } else { 8 } && !addresses.is_empty() => addresses,
        _ => return std::ptr::null(),
    };
    let plain = Plain { host: parts[3].to_vec(), pool: what.pool, response_timeout: what.response_timeout };
    let plain = if what.plain { Some(plain) } else { None };
    let limit = |value: u64| if value == NO_LIMIT { None } else { Some(value) };
    let verdict = Arc::new(Verdict {
        number: what.number,
        addresses,
        request: parts[4].to_vec(),
        host: parts[1].to_vec(),
        literal: what.literal,
        needs_hello: what.needs_hello,
        expires: what.expires,
        account: Account { cells: Cells::new(what.account, ACCOUNT_WIDTH, ROWS) },
        limits: Limits {
            concurrent: limit(what.concurrent),
            requests_per_minute: limit(what.requests_per_minute),
            bytes_per_hour: limit(what.bytes_per_hour),
        },
        end: parts[2].to_vec(),
        plain,
        refusal: Vec::new(),
        entry: parts[5..].iter().map(|part| part.to_vec()).collect(),
        live: AtomicBool::new(true),
        counts: Counts::default(),
    });
    announce(plane, &key, verdict)
}

fn announce(plane: &Plane, key: &[u8], verdict: Arc<Verdict>) -> *const Verdict {
    for post in &plane.shared.posts {
        post.send(Order::Publish { key: key.to_vec(), verdict: verdict.clone() });
        // Each thread takes its orders before it looks a verdict up, and once a second; it is woken only for many.
        if post.has_many() {
            sys::ring(post.bell);
        }
    }
    Arc::into_raw(verdict)
}

#[repr(C)]
pub struct RefusalForm {
    number: u32,
    expires: u64,
    /// The account of refusals: `denial_budget.py`.
    account: *const u64,
    per_minute: u64,
}

/// `content`: parts with 0x1e between them: the four of the entry, then the answer, between whose parts the id stands.
/// Null when it is not that.
#[no_mangle]
pub unsafe extern "C" fn plane_publish_refusal(
    plane: &Plane,
    key: *const u8,
    key_length: usize,
    what: &RefusalForm,
    content: *const u8,
    length: usize,
) -> *const Verdict {
    let mut parts = bytes(content, length).split(|octet| *octet == 0x1e).map(<[u8]>::to_vec);
    let entry: Vec<Vec<u8>> = parts.by_ref().take(REFUSAL_PIECES).collect();
    let refusal: Vec<Vec<u8>> = parts.collect();
    if entry.len() != REFUSAL_PIECES || refusal.len() < 2 {
        return std::ptr::null();
    }
    let limits = Limits { concurrent: None, requests_per_minute: Some(what.per_minute), bytes_per_hour: None };
    let verdict = Arc::new(Verdict {
        number: what.number,
        addresses: Vec::new(),
        request: Vec::new(),
        host: Vec::new(),
        literal: false,
        needs_hello: false,
        expires: what.expires,
        account: Account { cells: Cells::new(what.account, DENIALS_WIDTH, ROWS) },
        limits,
        end: Vec::new(),
        plain: None,
        refusal,
        entry,
        live: AtomicBool::new(true),
        counts: Counts::default(),
    });
    announce(plane, bytes(key, key_length), verdict)
}

/// Withdraws a verdict: it is not granted again from now on, before the other threads are told.
#[no_mangle]
pub extern "C" fn verdict_withdraw(verdict: &Verdict) {
    verdict.live.store(false, SeqCst);
}

#[no_mangle]
pub unsafe extern "C" fn verdict_free(verdict: *const Verdict) {
    drop(Arc::from_raw(verdict));
}

/// Granted, open, relaying, bytes up, bytes down; and the id of the last decision.
#[no_mangle]
pub extern "C" fn verdict_counts(verdict: &Verdict, out: &mut [i64; 5], id: &mut [u8; ID]) {
    let counts = &verdict.counts;
    out[1] = counts.open.load(SeqCst); // first: behind a last end the other numbers are complete
    out[0] = counts.granted.load(SeqCst) as i64;
    out[2] = counts.relaying.load(SeqCst);
    out[3] = counts.bytes_up.load(SeqCst) as i64;
    out[4] = counts.bytes_down.load(SeqCst) as i64;
    *id = *counts.last_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
}

/// Which of so many verdicts have counted anything since the last time: their places, as many as are returned.
#[no_mangle]
pub unsafe extern "C" fn verdicts_changed(verdicts: *const &Verdict, count: usize, places: *mut u32) -> usize {
    if count == 0 {
        return 0;
    }
    let mut found = 0;
    for (place, verdict) in std::slice::from_raw_parts(verdicts, count).iter().enumerate() {
        if verdict.counts.take_changed() {
            *places.add(found) = place as u32;
            found += 1;
        }
    }
    found
}
