//! Connections that go to Python.

use super::Plane;
use crate::shared::Handed;
use crate::sys;
use crate::verdict::{Verdict, ID};
use std::sync::atomic::Ordering::SeqCst;

#[repr(C)]
pub struct HandedOver {
    stage: u32,
    fd: i32,
    upstream: i32,
    listener: u32,
    verdict: u32,
    admitted: bool,
    granted: bool,
    id: [u8; ID],
    since: u64,
    up: u64,
    hello_deadline: u64,
    client_length: u64,
    server_length: u64,
}

/// The next connection for Python, its bytes into `buffer` (the client's first). False: none. One whose bytes have no
/// room cannot be (`buffer` holds what one read and one hello can be) and is closed.
#[no_mangle]
pub unsafe extern "C" fn plane_take(plane: &Plane, out: &mut HandedOver, buffer: *mut u8, room: usize) -> bool {
    let shared = &plane.shared;
    sys::silence(shared.bell);
    let handed = match shared.queue().pop_front() {
        Some(handed) => handed,
        None => return false,
    };
    let none = Vec::new();
    let server_bytes = handed.granted.as_ref().map_or(&none, |granted| &granted.server_bytes);
    let (client_length, server_length) = (handed.client_bytes.len(), server_bytes.len());
    if client_length + server_length <= room {
        std::ptr::copy_nonoverlapping(handed.client_bytes.as_ptr(), buffer, client_length);
        std::ptr::copy_nonoverlapping(server_bytes.as_ptr(), buffer.add(client_length), server_length);
    }
    *out = described(&handed, client_length as u64, server_length as u64);
    true
}

fn described(handed: &Handed, client_length: u64, server_length: u64) -> HandedOver {
    let granted = handed.granted.as_ref();
    HandedOver {
        stage: handed.stage as u32,
        fd: handed.fd,
        upstream: granted.map_or(-1, |granted| granted.upstream),
        listener: handed.listener,
        verdict: granted.map_or(0, |granted| granted.verdict.number),
        admitted: handed.admitted,
        granted: granted.is_some(),
        id: granted.map_or([0; ID], |granted| granted.id),
        since: granted.map_or(0, |granted| granted.since),
        up: granted.map_or(0, |granted| granted.up),
        hello_deadline: granted.map_or(0, |granted| granted.hello_deadline),
        client_length,
        server_length,
    }
}

/// Python counts the connection, and its flow, from here on. `verdict` is null where nothing was granted.
#[no_mangle]
pub extern "C" fn plane_adopted(plane: &Plane, party: usize, admitted: bool, verdict: Option<&Verdict>) {
    let shared = &plane.shared;
    if admitted {
        shared.leave(party);
    }
    if let Some(verdict) = verdict {
        verdict.account.leave();
        verdict.counts.open.fetch_sub(1, SeqCst);
    }
    shared.connections.fetch_sub(1, SeqCst);
}
