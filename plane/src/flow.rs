//! One client connection: where it stands, and what belongs to it.
#![forbid(unsafe_code)]

use crate::side::Side;
use crate::verdict::{Verdict, ID};
use std::sync::Arc;

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
    /// Monotonic microseconds; 0 is none.
    pub deadline: u64,
    /// The earliest timer that is set for it; 0 is none.
    pub timer: u64,
    pub last_byte: u64,
}

pub struct Grant {
    pub verdict: Arc<Verdict>,
    pub id: [u8; ID],
    pub since: u64,
    /// Bytes that the account knows of.
    pub counted: u64,
    pub relaying: bool,
}

/// RFC 8305: the next address is tried when the one before it fails, or is silent for a while.
pub struct Dial {
    pub next_address: usize,
    /// Under way: places of upstreams.
    pub attempts: Vec<u32>,
    pub next_at: u64,
    pub deadline: u64,
    pub began: u64,
    /// Of the last one that failed.
    pub error: i32,
}

/// A connection to an upstream, or an attempt at one.
pub struct Link {
    pub generation: u32,
    /// The place of its flow.
    pub flow: u32,
    pub connected: bool,
    pub side: Side,
}
