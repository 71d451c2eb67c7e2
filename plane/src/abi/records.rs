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

/// Takes all entries: one JSON text a line; and of each verdict, hour and request a line: verdict, count, first, last, method, path.
#[no_mangle]
pub extern "C" fn plane_take_records(plane: &Plane, out: &mut Batch) {
    let shared = &plane.shared;
    let taken = shared.records.take();
    let (entries, choked) = (taken.entries, taken.choked);
    if choked {
        for post in &shared.posts {
            post.send(Order::Breathe);
            sys::ring(post.bell);
        }
    }
    let kept = Box::new(taken.written());
    *out = Batch {
        text: kept.0.as_ptr(),
        text_length: kept.0.len(),
        calls: kept.1.as_ptr(),
        calls_length: kept.1.len(),
        entries,
        kept: Box::into_raw(kept),
    };
}

#[no_mangle]
pub unsafe extern "C" fn plane_free_records(batch: &Batch) {
    drop(Box::from_raw(batch.kept));
}
