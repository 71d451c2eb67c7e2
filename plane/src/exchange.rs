//! A plain request and its response on their way, from the first byte to an upstream to the last byte to the client.
//!
//! Each step tells whether the flow goes on here: false when it has ended, or is Python's.
#![forbid(unsafe_code)]

use crate::body::Body;
use crate::ending::{CLIENT_RESET, UPSTREAM_FAILED};
use crate::shared::Stage;
use crate::worker::Worker;

/// Microseconds that a response may be quiet when the client has sent FIN: few wait for it then, most have left.
const AFTER_FIN: u64 = 4_000_000;
/// Reads in one turn, before the other flows get theirs.
pub const SHARE: usize = 16;

impl Worker {
    /// Looks at both sides.
    pub fn exchange(&mut self, place: u32) {
        if self.flows[place as usize].client.hung_up {
            return self.end(place, CLIENT_RESET, true);
        }
        if self.pass_response(place) && self.pass_request(place, Vec::new()) && self.flows[place as usize].client.ending
        {
            self.hurry(place);
        }
    }

    /// The client has sent FIN: half a close, or, far more often, a client that gave up and holds a place.
    fn hurry(&mut self, place: u32) {
        let (deadline, soon) = (self.flows[place as usize].deadline, self.flows[place as usize].last_byte + AFTER_FIN);
        if deadline == 0 || soon < deadline {
            self.arm(place, soon);
        }
    }

    /// FIN or, with `broken`, a reset: nothing comes any more.
    pub fn upstream_gone(&mut self, place: u32, broken: bool) -> bool {
        let exchange = match &mut self.flows[place as usize].exchange {
            Some(exchange) => exchange,
            None => return false,
        };
        if exchange.received {
            return self.complete(place);
        }
        if matches!(exchange.response, Some(Body::Unsized)) && !broken {
            exchange.received = true;
            exchange.clean = false;
            return self.tell(place, b"0\r\n\r\n") && self.complete(place);
        }
        if exchange.told {
            self.end(place, UPSTREAM_FAILED, true);
            return false;
        }
        let untouched = !exchange.started && exchange.answer.is_empty();
        if let Some(copy) = exchange.copy.take().filter(|_| untouched) {
            // A kept connection had been closed before the request met it (RFC 9112, section 9.3.1).
            let flow = &mut self.flows[place as usize];
            if let Some(exchange) = &mut flow.exchange {
                let taken = exchange.begin_anew(copy);
                flow.unread.splice(..0, taken);
            }
            self.let_go(place, true);
            self.begin_dial(place);
            return false;
        }
        self.let_go(place, true);
        self.give_back_unread(place, Stage::Broken);
        false
    }

    fn let_go(&mut self, place: u32, hard: bool) {
        if let Some(link) = self.flows[place as usize].upstream.take() {
            self.drop_link(link, hard);
        }
    }

    /// The response did not begin in time, or fell silent behind the client's FIN.
    pub fn silent(&mut self, place: u32) {
        let flow = &self.flows[place as usize];
        let soon = flow.last_byte + AFTER_FIN;
        if flow.client.ending && self.now < soon && flow.exchange.as_ref().map_or(false, |exchange| exchange.told) {
            return self.arm(place, soon); // a response that still moves is not cut for its client's FIN
        }
        if self.flows[place as usize].exchange.as_ref().map_or(true, |exchange| exchange.told) {
            return self.end(place, CLIENT_RESET, true);
        }
        self.let_go(place, true);
        self.give_back_unread(place, Stage::Silent);
    }

    /// Python goes on with it; nothing of the final response was told.
    pub fn hand_over_exchange(&mut self, place: u32) -> bool {
        let flow = &mut self.flows[place as usize];
        let unread = std::mem::take(&mut flow.unread);
        let answer = flow.exchange.as_mut().map(|exchange| std::mem::take(&mut exchange.answer)).unwrap_or_default();
        self.hand_over_all(place, Stage::Exchange, unread, answer);
        false
    }
}
