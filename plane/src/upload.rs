//! A plain request on its way: the head, and what there is of its body.
//!
//! As in `exchange`, each step tells whether the flow goes on here.
#![forbid(unsafe_code)]

use crate::ending::{CLIENT_RESET, MALFORMED_REQUEST};
use crate::exchange::SHARE;
use crate::sys::Io;
use crate::worker::Worker;

impl Worker {
    /// Moves what there is of its body, behind `out`.
    pub fn pass_request(&mut self, place: u32, mut out: Vec<u8>) -> bool {
        for _ in 0..SHARE {
            let flow = &mut self.flows[place as usize];
            let (exchange, link) = match (&mut flow.exchange, flow.upstream) {
                (Some(exchange), Some(link)) => (exchange, link as usize),
                _ => return true,
            };
            if !self.links[link].side.flush() {
                return self.upstream_gone(place, true);
            }
            let body = match &mut exchange.request {
                Some(body) => body,
                None if out.is_empty() => return true,
                None => return self.send(place, &out) && self.request_is_whole(place),
            };
            if !self.links[link].side.drained() {
                return true;
            }
            let mut whole = false;
            if !flow.unread.is_empty() {
                let (before, length) = (body.clone(), out.len());
                match body.take(&flow.unread, exchange.chunked, &mut out) {
                    Ok(taken) => {
                        flow.unread.drain(..taken.bytes);
                        whole = taken.whole;
                    }
                    Err(_) if exchange.told => {
                        // The client has a part of the response: it must not mistake the cut for the end.
                        self.end(place, MALFORMED_REQUEST, true);
                        return false;
                    }
                    // Python reads the same bytes once more, from where the body was, and has the answer to it.
                    Err(_) => {
                        *body = before;
                        out.truncate(length);
                        return (out.is_empty() || self.send(place, &out)) && self.hand_over_exchange(place);
                    }
                }
            }
            if whole {
                exchange.request = None;
                return (out.is_empty() || self.send(place, &out)) && self.request_is_whole(place);
            }
            if !out.is_empty() {
                let sent = std::mem::take(&mut out);
                if !self.send(place, &sent) {
                    return false;
                }
                continue;
            }
            if !flow.client.readable {
                return true;
            }
            match flow.client.read(&mut self.buffer) {
                Io::Moved(count)
                    if flow.unread.is_empty() && !exchange.chunked && body.pass_by(&self.buffer[..count]) =>
                {
                    if let Some(copy) = &mut exchange.copy {
                        copy.extend_from_slice(&self.buffer[..count]);
                    }
                    let written = self.links[link].side.write(&self.buffer[..count]);
                    if !self.sent(place, count, written) {
                        return false;
                    }
                }
                Io::Moved(count) => {
                    flow.unread.extend_from_slice(&self.buffer[..count]);
                    self.buffer[..count].fill(0); // perhaps the next head is among it, with its credential
                }
                Io::Again => return true,
                Io::End | Io::Failed => {
                    self.end(place, CLIENT_RESET, true);
                    return false;
                }
            }
        }
        self.take_turn_again(place);
        true
    }

    fn request_is_whole(&mut self, place: u32) -> bool {
        let now = self.now;
        let flow = &mut self.flows[place as usize];
        let (exchange, grant) = match (&flow.exchange, &flow.grant) {
            (Some(exchange), Some(grant)) => (exchange, grant),
            _ => return false,
        };
        if exchange.received {
            return self.complete(place);
        }
        if !exchange.told {
            let patience = grant.verdict.plain.as_ref().map_or(0, |plain| plain.response_timeout);
            self.arm(place, now.saturating_add(patience));
        }
        true
    }

    fn send(&mut self, place: u32, bytes: &[u8]) -> bool {
        let flow = &mut self.flows[place as usize];
        let (exchange, link) = match (&mut flow.exchange, flow.upstream) {
            (Some(exchange), Some(link)) => (exchange, link as usize),
            _ => return false,
        };
        if let Some(copy) = &mut exchange.copy {
            copy.extend_from_slice(bytes);
        }
        let written = self.links[link].side.write(bytes);
        self.sent(place, bytes.len(), written)
    }

    fn sent(&mut self, place: u32, count: usize, written: bool) -> bool {
        let flow = &mut self.flows[place as usize];
        flow.client.bytes += count as u64;
        flow.last_byte = self.now;
        self.count_bytes(place);
        written || self.upstream_gone(place, true)
    }
}
