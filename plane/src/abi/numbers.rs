//! What is open, and what was counted.

use super::Plane;
use crate::shared::Order;
use crate::verdict::ID;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

#[repr(C)]
pub struct SeenTunnel {
    verdict: u32,
    relaying: bool,
    id: [u8; ID],
    since: u64,
    last_byte: u64,
    up: u64,
    down: u64,
}

/// What is open by a grant; how many there are, of which at most `room` are told.
#[no_mangle]
pub unsafe extern "C" fn plane_snapshot(plane: &Plane, out: *mut SeenTunnel, room: usize) -> usize {
    let seen = Arc::new(Mutex::new(Vec::new()));
    plane.tell(|| Order::Snapshot(seen.clone()));
    let seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (at, one) in seen.iter().take(room).enumerate() {
        *out.add(at) = SeenTunnel {
            verdict: one.verdict,
            relaying: one.relaying,
            id: one.id,
            since: one.since,
            last_byte: one.last_byte,
            up: one.up,
            down: one.down,
        };
    }
    seen.len()
}

/// Connections, accepted, handed over, waiting entries, running threads, whether it is dead.
#[no_mangle]
pub extern "C" fn plane_numbers(plane: &Plane, out: &mut [i64; 6]) {
    let shared = &plane.shared;
    out[0] = shared.connections.load(SeqCst);
    out[1] = shared.accepted.load(SeqCst) as i64;
    out[2] = shared.handed_over.load(SeqCst) as i64;
    out[3] = shared.records.lock().entries as i64;
    out[4] = shared.running.load(SeqCst);
    out[5] = i64::from(shared.dead.load(SeqCst));
}

/// The sum in microseconds and the buckets of a histogram (connects, decisions, requests).
#[no_mangle]
pub unsafe extern "C" fn plane_spread(plane: &Plane, which: usize, out: *mut u64, room: usize) {
    let shared = &plane.shared;
    let spread = [&shared.connect_seconds, &shared.decision_seconds, &shared.request_seconds][which % 3];
    for (at, value) in spread.values().into_iter().take(room).enumerate() {
        *out.add(at) = value;
    }
}

/// What `cells.Cells.turn` is while there is a plane.
#[no_mangle]
pub extern "C" fn plane_take_turn(plane: &Plane) {
    plane.shared.turn.take();
}

#[no_mangle]
pub extern "C" fn plane_give_turn(plane: &Plane) {
    plane.shared.turn.give();
}
