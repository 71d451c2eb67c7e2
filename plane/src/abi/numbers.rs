//! What is open, and what was counted.

use super::Plane;
use crate::locks::Mutex;
use crate::shared::{Order, Seen};
use crate::verdict::ID;
use crate::waits::KINDS;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

#[repr(C)]
pub struct SeenFlow {
    verdict: u32,
    relaying: bool,
    id: [u8; ID],
    since: u64,
    last_byte: u64,
    up: u64,
    down: u64,
    /// Bytes of its method and path; 0: it is a tunnel.
    asked_length: u64,
}

#[repr(C)]
pub struct Snapshot {
    flows: *const SeenFlow,
    count: usize,
    /// What each of them asks for, one behind the other.
    asked: *const u8,
    asked_length: usize,
    kept: *mut (Vec<SeenFlow>, Vec<u8>),
}

/// What is open by a grant. Belongs to Python until `plane_free_snapshot`.
#[no_mangle]
pub extern "C" fn plane_snapshot(plane: &Plane, out: &mut Snapshot) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    plane.tell(|| Order::Snapshot(seen.clone()));
    let seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let of_one = |one: &Seen| SeenFlow {
        verdict: one.verdict,
        relaying: one.relaying,
        id: one.id,
        since: one.since,
        last_byte: one.last_byte,
        up: one.up,
        down: one.down,
        asked_length: one.asked.len() as u64,
    };
    let asked = seen.iter().flat_map(|one| one.asked.iter().copied()).collect();
    let kept: Box<(Vec<SeenFlow>, Vec<u8>)> = Box::new((seen.iter().map(of_one).collect(), asked));
    *out = Snapshot {
        flows: kept.0.as_ptr(),
        count: kept.0.len(),
        asked: kept.1.as_ptr(),
        asked_length: kept.1.len(),
        kept: Box::into_raw(kept),
    };
}

#[no_mangle]
pub unsafe extern "C" fn plane_free_snapshot(snapshot: &Snapshot) {
    drop(Box::from_raw(snapshot.kept));
}

/// Connections, accepted, handed over, waiting entries, running threads, whether it is dead, whether a client waits for a
/// place, and the microseconds in which one waited, for each `Wait`.
#[no_mangle]
pub extern "C" fn plane_numbers(plane: &Plane, out: &mut [i64; 7 + KINDS]) {
    let shared = &plane.shared;
    out[0] = shared.connections.load(SeqCst);
    out[1] = shared.accepted.load(SeqCst) as i64;
    out[2] = shared.handed_over.load(SeqCst) as i64;
    out[3] = shared.records.lock().entries as i64;
    out[4] = shared.running.load(SeqCst);
    out[5] = i64::from(shared.dead.load(SeqCst));
    let (held_up, waited) = shared.waits.told();
    out[6] = i64::from(held_up);
    out[7..].copy_from_slice(&waited.map(|microseconds| microseconds as i64));
}

/// The sum in microseconds and the buckets of a histogram (connects, decisions, tunnels, plain requests).
#[no_mangle]
pub unsafe extern "C" fn plane_spread(plane: &Plane, which: usize, out: *mut u64, room: usize) {
    let shared = &plane.shared;
    let all = [&shared.connect_seconds, &shared.decision_seconds, &shared.request_seconds, &shared.plain_seconds];
    let spread = all[which % all.len()];
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
