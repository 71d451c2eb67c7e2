//! A plain request and its response on their way, from the first byte to an upstream to the last byte to the client.
//!
//! Each step tells whether the flow goes on here: false when it has ended, or is Python's.
#![forbid(unsafe_code)]

use crate::body::Body;
use crate::ending::{CLIENT_RESET, CLOSED, MALFORMED_REQUEST, UPSTREAM_FAILED};
use crate::flow::State;
use crate::response::{self, Read};
use crate::shared::Stage;
use crate::sys::Io;
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;

/// Microseconds that a response may be quiet when the client has sent FIN: few wait for it then, most have left.
const AFTER_FIN: u64 = 4_000_000;
/// Microseconds and bytes for which a closed client is still read (RFC 9112, section 9.6).
const LINGER: u64 = 2_000_000;
const LINGER_BYTES: u64 = 1_048_576;
/// Reads in one turn, before the other flows get theirs.
const SHARE: usize = 16;
const SWITCHING_PROTOCOLS: u16 = 101;

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

    // The request.

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
                Io::Moved(count) => flow.unread.extend_from_slice(&self.buffer[..count]),
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

    // The response.

    fn pass_response(&mut self, place: u32) -> bool {
        for _ in 0..SHARE {
            let flow = &mut self.flows[place as usize];
            let (exchange, link) = match (&mut flow.exchange, flow.upstream) {
                (Some(exchange), Some(link)) => (exchange, link as usize),
                _ => return true,
            };
            if !flow.client.flush() {
                self.end(place, CLIENT_RESET, true);
                return false;
            }
            let upstream = &mut self.links[link].side;
            if exchange.received {
                // An early answer: the request goes on to its end, unless nobody is there to take it.
                return !upstream.ending || self.complete(place);
            }
            if !flow.client.drained() || !upstream.readable {
                return true;
            }
            match upstream.read(&mut self.buffer) {
                Io::Moved(count) => {
                    flow.last_byte = self.now;
                    let passes = exchange.answer.is_empty() && !exchange.rechunk;
                    let body = exchange.response.as_mut().filter(|_| passes);
                    let goes_on = if body.map_or(false, |body| body.pass_by(&self.buffer[..count])) {
                        let written = flow.client.write(&self.buffer[..count]);
                        self.told(place, count, written)
                    } else {
                        exchange.answer.extend_from_slice(&self.buffer[..count]);
                        self.read_response(place)
                    };
                    if !goes_on {
                        return false;
                    }
                }
                Io::Again => return true,
                Io::End => return self.upstream_gone(place, false),
                Io::Failed => return self.upstream_gone(place, true),
            }
        }
        self.take_turn_again(place);
        true
    }

    /// What the upstream has sent, from the first byte that nobody has read.
    fn read_response(&mut self, place: u32) -> bool {
        let exchange = match &mut self.flows[place as usize].exchange {
            Some(exchange) => exchange,
            None => return false,
        };
        let answer = std::mem::take(&mut exchange.answer);
        let (mut out, mut at, settings) = (Vec::new(), 0, &self.shared.settings);
        while !exchange.told {
            match response::read(&answer[at..], settings.max_head_bytes, settings.max_head_fields) {
                Read::Head(head) if head.is_final() => {
                    let body = head.body(exchange.to_head);
                    exchange.last = !exchange.keep_alive || self.shared.draining.load(SeqCst);
                    exchange.clean = head.leaves_connection_clean(body.is_some());
                    exchange.rechunk = matches!(body, Some(Body::Chunked(_) | Body::Unsized));
                    head.encode(&answer[at..], body.is_some(), exchange.last, &mut out);
                    exchange.response = body;
                    exchange.told = true;
                    at += head.length;
                }
                Read::Head(head) if head.status != SWITCHING_PROTOCOLS => {
                    exchange.started = true;
                    head.encode(&answer[at..], false, false, &mut out);
                    at += head.length;
                }
                Read::More => {
                    exchange.answer = answer[at..].to_vec();
                    return self.tell(place, &out);
                }
                Read::Head(_) | Read::Other => {
                    exchange.answer = answer[at..].to_vec();
                    return self.tell(place, &out) && self.hand_over_exchange(place);
                }
            }
        }
        let whole = match &mut exchange.response {
            None => true,
            Some(body) => match body.take(&answer[at..], exchange.rechunk, &mut out) {
                Ok(taken) => {
                    at += taken.bytes;
                    taken.whole
                }
                Err(_) => {
                    self.end(place, UPSTREAM_FAILED, true);
                    return false;
                }
            },
        };
        exchange.answer = answer[at..].to_vec();
        exchange.received = whole;
        self.arm(place, 0);
        self.tell(place, &out) && (!whole || self.response_is_whole(place))
    }

    fn response_is_whole(&mut self, place: u32) -> bool {
        let flow = &self.flows[place as usize];
        let waits = flow.exchange.as_ref().map_or(false, |exchange| exchange.request.is_some() && !exchange.last);
        waits || self.complete(place)
    }

    fn tell(&mut self, place: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let written = self.flows[place as usize].client.write(bytes);
        self.told(place, bytes.len(), written)
    }

    fn told(&mut self, place: u32, count: usize, written: bool) -> bool {
        if let Some(link) = self.flows[place as usize].upstream {
            self.links[link as usize].side.bytes += count as u64;
        }
        if !written {
            self.end(place, CLIENT_RESET, true);
            return false;
        }
        self.count_bytes(place);
        true
    }

    /// FIN or, with `broken`, a reset: nothing comes any more.
    fn upstream_gone(&mut self, place: u32, broken: bool) -> bool {
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

    // The end.

    /// The response was passed on to its end.
    fn complete(&mut self, place: u32) -> bool {
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
    fn begin_linger(&mut self, place: u32) {
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
        }
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
