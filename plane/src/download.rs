//! The response to a plain request on its way: interim heads, the final one, and its body.
//!
//! As in `exchange`, each step tells whether the flow goes on here.
#![forbid(unsafe_code)]

use crate::body::Body;
use crate::ending::{CLIENT_RESET, UPSTREAM_FAILED};
use crate::exchange::SHARE;
use crate::response::{self, Read};
use crate::sys::Io;
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;

const SWITCHING_PROTOCOLS: u16 = 101;

impl Worker {
    pub fn pass_response(&mut self, place: u32) -> bool {
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

    pub fn tell(&mut self, place: u32, bytes: &[u8]) -> bool {
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
}
