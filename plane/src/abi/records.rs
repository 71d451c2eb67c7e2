//! What goes to the audit log.

use super::Plane;
use crate::shared::Order;
use crate::sys;
use std::time::Duration;

/// Waits for entries, for so long at most; how many there are.
#[no_mangle]
pub extern "C" fn plane_wait(plane: &Plane, milliseconds: u64) -> usize {
    plane.shared.records.wait(Duration::from_millis(milliseconds))
}

#[repr(C)]
pub struct Batch {
    text: *const u8,
    text_length: usize,
    calls: *const u8,
    calls_length: usize,
    entries: usize,
    kept: *mut (Vec<u8>, Vec<u8>),
}

/// Takes all entries: one JSON text a line; and of each verdict and hour a line: verdict, count, first, last.
#[no_mangle]
pub extern "C" fn plane_take_records(plane: &Plane, out: &mut Batch) {
    let shared = &plane.shared;
    let taken = std::mem::take(&mut *shared.records.lock());
    let mut calls = Vec::new();
    for ((verdict, _), (count, first, last)) in taken.calls {
        calls.extend_from_slice(format!("{verdict} {count} {first} {last}\n").as_bytes());
    }
    if taken.choked {
        for post in &shared.posts {
            post.send(Order::Breathe);
            sys::ring(post.bell);
        }
    }
    let kept = Box::new((taken.text, calls));
    *out = Batch {
        text: kept.0.as_ptr(),
        text_length: kept.0.len(),
        calls: kept.1.as_ptr(),
        calls_length: kept.1.len(),
        entries: taken.entries,
        kept: Box::into_raw(kept),
    };
}

#[no_mangle]
pub unsafe extern "C" fn plane_free_records(batch: &Batch) {
    drop(Box::from_raw(batch.kept));
}
