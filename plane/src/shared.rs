//! What the threads of the plane share with each other and with Python.
#![forbid(unsafe_code)]

use crate::body::Body;
use crate::cells::{Cells, Turn};
use crate::locks::{Mutex, MutexGuard};
use crate::post::Post;
use crate::record::Records;
use crate::spread::Spread;
use crate::sys;
use crate::verdict::{Verdict, ID};
use crate::waits::Waits;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

/// Numbers of `ProxySettings`; times in microseconds.
pub struct Settings {
    pub head_timeout: u64,
    pub hello_timeout: u64,
    pub connect_timeout: u64,
    /// Between two plain requests of a client.
    pub keep_alive_timeout: u64,
    pub idle_timeout: u64,
    pub max_head_bytes: usize,
    pub max_head_fields: usize,
    pub max_connections: u64,
    /// Most connections of one party, while more than one listener is open.
    pub party_share: u64,
}

pub enum Order {
    Listen {
        fd: i32,
        listener: u32,
        party: usize,
    },
    /// Stops accepting, and cuts what came that way.
    Unlisten {
        listener: u32,
        cause: String,
    },
    /// Stops accepting altogether, and lets go of who asks for nothing.
    Drain,
    /// A connection that comes back from Python, counted already.
    Adopt {
        fd: i32,
        listener: u32,
        party: usize,
    },
    /// As before, with a head that there was no verdict on, which took Python so many microseconds.
    Return {
        fd: i32,
        listener: u32,
        party: usize,
        data: Vec<u8>,
        took: u64,
    },
    Publish {
        key: Vec<u8>,
        verdict: Arc<Verdict>,
    },
    /// No verdict published so far is granted again.
    Forget,
    Review(Arc<Review>),
    CutFlow {
        id: [u8; ID],
        cause: String,
    },
    CutAll {
        cause: String,
    },
    MakeRoom(Room),
    Snapshot(Arc<Mutex<Vec<Seen>>>),
    /// The log has room again.
    Breathe,
    Stop,
    /// For the test of what happens then.
    Panic,
}

/// Up to `most` connections are ended that ask for nothing. `party`: None is all.
#[derive(Clone, Copy)]
pub struct Room {
    pub party: Option<usize>,
    /// Microseconds for which a client has not begun to ask for the first time, or to ask for more.
    pub first: u64,
    pub further: u64,
    pub most: usize,
}

/// What open flows are held to.
#[derive(Default)]
pub struct Review {
    /// By the number of a verdict: all of its flows.
    pub of_verdict: HashMap<u32, Bounds>,
    /// One flow alone, where the policy looks at what it asks for.
    pub of_flow: HashMap<[u8; ID], Bounds>,
}

/// Microseconds.
pub struct Bounds {
    pub idle: u64,
    pub lifetime: u64,
    /// Cuts each of them; empty: those that break a bound.
    pub cause: String,
}

/// An open flow: a tunnel, or a plain request with its response.
pub struct Seen {
    pub verdict: u32,
    pub id: [u8; ID],
    pub since: u64,
    pub last_byte: u64,
    pub up: u64,
    pub down: u64,
    pub relaying: bool,
    /// As `Exchange::asked`; nothing of a tunnel.
    pub asked: Vec<u8>,
}

/// At which boundary a connection goes to Python.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(u32)]
pub enum Stage {
    /// Nothing was decided.
    Head = 0,
    /// Granted; no address answered.
    Unreachable = 1,
    /// As before, and not in time.
    Late = 2,
    /// Granted; no descriptor is left.
    Exhausted = 3,
    /// Connected and told so; the bytes of the client are to be judged.
    Hello = 4,
    /// As before, and the hello has gone upstream; what either side says now is to be judged.
    Guard = 5,
    /// Granted; the proxy in front was asked for the target, and what it says to that is to be judged.
    Asked = 6,
    /// Nothing was decided of a further plain request.
    Plain = 7,
    /// A plain request is under way, and nothing of the final response was told.
    Exchange = 8,
    /// As before; its upstream has ended without a response.
    Broken = 9,
    /// As before; its upstream was silent for too long.
    Silent = 10,
    /// As `Head`, of a CONNECT that there is no verdict on: if Python makes one, the connection may come back.
    Unknown = 11,
}

pub struct Handed {
    pub stage: Stage,
    pub fd: i32,
    pub listener: u32,
    pub client_bytes: Vec<u8>,
    /// What the connection was granted; nothing in `Stage::Head` and `Stage::Plain`.
    pub granted: Option<Granted>,
    /// The plain request under way, where there is one.
    pub underway: Option<Underway>,
}

/// How far a plain request has come. `Handed::client_bytes` begin with its head.
pub struct Underway {
    pub head_length: usize,
    /// What is to come of its body; None: it is complete.
    pub request: Option<Body>,
    /// An interim response was passed on.
    pub started: bool,
    /// What was sent upstream, and the kernel has not taken.
    pub unsent: Vec<u8>,
}

pub struct Granted {
    pub verdict: Arc<Verdict>,
    pub id: [u8; ID],
    /// Monotonic microseconds.
    pub since: u64,
    /// -1: none.
    pub upstream: i32,
    pub server_bytes: Vec<u8>,
    pub up: u64,
    pub hello_deadline: u64,
}

pub struct Shared {
    pub settings: Settings,
    pub posts: Vec<Post>,
    pub records: Records,
    pub turn: Turn,
    /// How many are connected: one column.
    pub connected: Cells,
    /// How many are connected, by party.
    pub parties: Cells,
    pub contended: AtomicBool,
    /// The log fails: nothing is granted here.
    pub suspended: AtomicBool,
    /// A thread of the plane has died; all have let go of everything.
    pub dead: AtomicBool,
    /// No further request is served on a connection.
    pub draining: AtomicBool,
    pub running: AtomicI64,
    pub connections: AtomicI64,
    pub accepted: AtomicU64,
    pub handed_over: AtomicU64,
    pub connect_seconds: Spread,
    pub decision_seconds: Spread,
    pub request_seconds: Spread,
    pub plain_seconds: Spread,
    pub waits: Waits,
    pub handed: Mutex<VecDeque<Handed>>,
    /// Rings when something was handed over, or the last connection is gone, or the plane is dead.
    pub bell: i32,
}

impl Shared {
    pub fn hand_over(&self, handed: Handed) {
        self.handed_over.fetch_add(1, SeqCst);
        let mut queue = self.queue();
        queue.push_back(handed);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            sys::ring(self.bell); // whoever takes takes all: the next look finds those behind it
        }
    }

    pub fn next_handed(&self) -> Option<Handed> {
        let next = self.queue().pop_front();
        if next.is_some() {
            return next;
        }
        sys::silence(self.bell); // and once more: the bell may have rung for what came in between
        self.queue().pop_front()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Handed>> {
        self.handed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes a place for a connection; whether there was one.
    pub fn admit(&self, party: usize) -> bool {
        let share = if self.contended.load(SeqCst) { self.settings.party_share } else { u64::MAX };
        if !self.parties.enter(party, share) {
            return false;
        }
        if !self.connected.enter(0, self.settings.max_connections) {
            self.parties.leave(party);
            return false;
        }
        true
    }

    /// As above, for a connection that has a place already: Python gives its own up behind this.
    pub fn readmit(&self, party: usize) {
        self.connected.add(0);
        self.parties.add(party);
    }

    pub fn leave(&self, party: usize) {
        self.connected.leave(0);
        self.parties.leave(party);
    }
}
