//! What the plane may grant or refuse by itself: a decision that Python has made, and what it counts by it.
#![forbid(unsafe_code)]

use crate::cells::{Account, Limits};
use crate::locks::Mutex;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

pub struct Verdict {
    pub number: u32,
    /// Checked, in the order in which they are to be tried.
    pub addresses: Vec<SocketAddr>,
    /// What the proxy in front is told, whose addresses these are then. Empty: they are the target's own.
    pub request: Vec<u8>,
    /// Canonical, as the server name must be.
    pub host: Vec<u8>,
    pub literal: bool,
    /// Whether the tunnel has to begin with a ClientHello.
    pub needs_hello: bool,
    /// Monotonic microseconds.
    pub expires: u64,
    pub account: Account,
    pub limits: Limits,
    /// The entry of the decision in pieces: between them the time, the id and, of a plain request, method, path and what
    /// its end adds (`record::Exchange`).
    pub entry: Vec<Vec<u8>>,
    /// None: of a CONNECT.
    pub plain: Option<Plain>,
    /// What is told, with the id between the pieces, where it refuses; nothing where it grants.
    pub refusal: Vec<Vec<u8>>,
    /// The end of the entry of a flow's end.
    pub end: Vec<u8>,
    /// False once it is not to be granted again; what is open by it goes on until Python says otherwise.
    pub live: AtomicBool,
    pub counts: Counts,
}

impl Verdict {
    /// Counts one more flow as open by it. False, and nothing is counted, where Python has taken it back meanwhile: it
    /// forgets a verdict by which nothing is open, and nobody would review the flow. Each of the two writes what it does
    /// before it reads what the other one did, so that one of them sees the other.
    pub fn open(&self) -> bool {
        self.counts.open.fetch_add(1, SeqCst);
        let live = self.live.load(SeqCst);
        if !live {
            self.counts.open.fetch_sub(1, SeqCst);
            self.counts.have_changed();
        }
        live
    }
}

/// What a verdict on plain requests has besides.
pub struct Plain {
    /// What Host says to the server.
    pub host: Vec<u8>,
    /// The same for all verdicts of one caller, rule, host and port: only these share connections to upstreams.
    pub pool: u32,
    /// Microseconds that the head of a response may take.
    pub response_timeout: u64,
}

/// What goes to the metrics. Only grows, but for `relaying`.
#[derive(Default)]
pub struct Counts {
    /// Granted or refused.
    pub granted: AtomicU64,
    /// Flows that are open here, at whatever stage.
    pub open: AtomicI64,
    /// Those of them that are tunnels already.
    pub relaying: AtomicI64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
    pub last_id: Mutex<[u8; ID]>,
    /// Whether any of it has changed since Python asked for it. Set behind the change.
    changed: AtomicBool,
}

impl Counts {
    pub fn have_changed(&self) {
        self.changed.store(true, SeqCst);
    }

    /// Whether there was a change; what comes behind this counts for the next time.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, SeqCst)
    }
}

pub const ID: usize = 12;
