//! One client connection: where it stands, and what belongs to it.
#![forbid(unsafe_code)]

use crate::body::Body;
use crate::record::Slip;
use crate::side::Side;
use crate::verdict::{Verdict, ID};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

pub const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum State {
    /// No connection in this place.
    Free,
    /// Waits for the first bytes of a head.
    Head,
    /// Granted, and its upstream is being connected.
    Dial,
    /// Connected to the proxy in front, which has been asked for the target.
    Ask,
    /// Waits for the ClientHello.
    Hello,
    /// The hello has gone upstream; waits for what the server says to it.
    Guard,
    Relay,
    /// A plain request is with its upstream.
    Exchange,
    /// Everything was said: FIN is sent, and what still comes is not looked at.
    Linger,
}

pub struct Flow {
    /// Grows with each connection in this place: an event or a timer of an earlier one is told by it.
    pub generation: u32,
    pub state: State,
    pub listener: u32,
    pub party: usize,
    pub client: Side,
    /// Bytes of the client that nobody has taken.
    pub unread: Vec<u8>,
    pub grant: Option<Grant>,
    /// Connected, behind `State::Dial`: the place of its upstream.
    pub upstream: Option<u32>,
    pub dial: Option<Box<Dial>>,
    /// The plain request at hand, from its grant on.
    pub exchange: Option<Box<Exchange>>,
    /// A plain request was served on it: no CONNECT may follow.
    pub served: bool,
    /// Microseconds that Python took for a verdict on its head; None: it was not asked.
    pub asked: Option<u64>,
    /// Monotonic microseconds; 0 is none.
    pub deadline: u64,
    /// The earliest timer that is set for it; 0 is none.
    pub timer: u64,
    pub last_byte: u64,
    /// What waited for a client that is not served any more, in bytes, and when that was looked at: `stalled`.
    pub left: (usize, u64),
}

pub struct Grant {
    pub verdict: Arc<Verdict>,
    pub id: [u8; ID],
    pub since: u64,
    /// Bytes that the account knows of.
    pub counted: u64,
    pub relaying: bool,
    /// Where its decision waits for the log, of a plain request.
    pub slip: Option<Slip>,
}

/// RFC 8305: the next address is tried when the one before it fails, or is silent for a while.
pub struct Dial {
    pub next_address: usize,
    /// Under way: places of upstreams.
    pub attempts: Vec<u32>,
    pub next_at: u64,
    pub deadline: u64,
    pub began: u64,
    /// Error number of the last attempt that failed.
    pub error: i32,
}

/// One plain request and its response.
pub struct Exchange {
    /// As the client sent it, for Python where that has to go on.
    pub head: Vec<u8>,
    /// In it: what is asked for, which the policy may look at.
    pub method: Range<usize>,
    pub path: Range<usize>,
    /// Whether the client keeps its connection.
    pub keep_alive: bool,
    /// Whether the request is a HEAD: no body in the response.
    pub to_head: bool,
    /// Whether the request may be sent a second time.
    pub repeatable: bool,
    /// What is still to come of its body.
    pub request: Option<Body>,
    pub chunked: bool,
    /// The head as it goes to the upstream, until there is one.
    pub first: Vec<u8>,
    pub first_length: usize,
    /// What its head says of its length, where it is not chunked.
    pub content_length: u64,
    /// All that was written to a kept connection, of a request that may be sent again.
    pub copy: Option<Vec<u8>>,
    /// What the upstream has sent and nobody has read.
    pub answer: Vec<u8>,
    /// What is still to come of the response, behind its head.
    pub response: Option<Body>,
    /// Whether the body of the response goes on in chunks of our own.
    pub rechunk: bool,
    /// Whether the upstream's connection can carry another request.
    pub clean: bool,
    /// An interim response was passed on.
    pub started: bool,
    /// The final head was passed on.
    pub told: bool,
    /// All of the response was passed on.
    pub received: bool,
    /// The client's connection closes behind the response, and it was told so.
    pub last: bool,
}

impl Exchange {
    /// Makes it one of which nothing was sent; what was taken of its body is to be read again, and is returned.
    /// `copy`: all that was written of it.
    pub fn begin_anew(&mut self, mut copy: Vec<u8>) -> Vec<u8> {
        let taken = copy.split_off(self.first_length);
        self.first = copy;
        if self.content_length > 0 {
            self.request = Some(Body::Sized(self.content_length));
        }
        taken
    }

    /// Method, a space, path and query.
    pub fn asked(&self) -> Vec<u8> {
        [&self.head[self.method.clone()], &self.head[self.path.clone()]].join(&b' ')
    }
}

/// A connection to an upstream, or an attempt at one.
pub struct Link {
    pub generation: u32,
    /// The place of its flow; `NOBODY` while it is kept for the next request.
    pub flow: u32,
    pub address: SocketAddr,
    /// Since when it is kept: monotonic microseconds.
    pub idle_since: u64,
    /// The pool whose requests the connection may carry: `Plain::pool`.
    pub pool: u32,
    pub connected: bool,
    pub side: Side,
}
