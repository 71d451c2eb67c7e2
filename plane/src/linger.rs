//! Behind a response: the next request of the same client, or the end of its connection without loss of what was told.
#![forbid(unsafe_code)]

use crate::ending::{CLIENT_RESET, CLOSED};
use crate::flow::State;
use crate::sys::Io;
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;

/// Microseconds and bytes for which a closed client is still read (RFC 9112, section 9.6).
const LINGER: u64 = 2_000_000;
const LINGER_BYTES: u64 = 1_048_576;

impl Worker {
    /// The response was passed on to its end.
    pub fn complete(&mut self, place: u32) -> bool {
        self.count_bytes(place);
        let flow = &mut self.flows[place as usize];
        let (exchange, grant, link) = match (flow.exchange.take(), flow.grant.take(), flow.upstream.take()) {
            (Some(exchange), Some(grant), Some(link)) => (exchange, grant, link),
            _ => {
                self.end(place, CLIENT_RESET, true);
                return false;
            }
        };
        let (up, whole) = (flow.client.bytes, exchange.request.is_none());
        let side = &self.links[link as usize].side;
        let down = side.bytes;
        let clean = whole && exchange.clean && exchange.answer.is_empty() && side.drained() && !side.ending;
        self.finish(&grant, CLOSED, up, down);
        match &grant.verdict.plain {
            Some(plain) if clean && grant.verdict.live.load(SeqCst) => self.keep(link, plain.pool),
            _ => self.drop_link(link, !whole),
        }
        if whole && !exchange.last {
            self.await_head(place);
        } else {
            self.begin_linger(place);
        }
        false
    }

    fn await_head(&mut self, place: u32) {
        let patience = self.shared.settings.keep_alive_timeout;
        let flow = &mut self.flows[place as usize];
        flow.state = State::Head;
        if flow.unread.is_empty() {
            flow.unread = Vec::new(); // a connection that waits holds no memory of its last request
        }
        let more = !flow.unread.is_empty() || flow.client.readable;
        self.arm(place, self.now + patience);
        if more {
            self.take_turn_again(place);
        }
    }

    /// FIN, then reads on for a moment: the reset of an unread socket would destroy the answer on its way.
    pub fn begin_linger(&mut self, place: u32) {
        let idle = self.shared.settings.idle_timeout;
        let flow = &mut self.flows[place as usize];
        flow.state = State::Linger;
        flow.unread = Vec::new();
        flow.client.bytes = 0;
        let patience = if flow.client.drained() { LINGER } else { idle };
        self.arm(place, self.now + patience);
        self.linger(place);
    }

    pub fn linger(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        if !flow.client.flush() {
            return self.end(place, "", true);
        }
        if flow.client.drained() && flow.client.ended {
            return self.end(place, "", false);
        }
        if flow.client.drained() && !flow.client.fin_sent {
            flow.client.send_fin();
            self.arm(place, self.now + LINGER); // the longer patience was for what it had to take
        }
        let flow = &mut self.flows[place as usize];
        while flow.client.readable {
            match flow.client.read(&mut self.buffer) {
                Io::Moved(count) => flow.client.bytes += count as u64,
                Io::Again => return,
                Io::End if flow.client.drained() => return self.end(place, "", false),
                Io::End => {
                    // Half a close: it still gets what waits for it.
                    flow.client.ended = true;
                    flow.client.readable = false;
                }
                Io::Failed => return self.end(place, "", true),
            }
            if flow.client.bytes > LINGER_BYTES {
                return self.end(place, "", true);
            }
        }
    }
}
