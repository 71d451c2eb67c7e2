//! What Python tells a thread of the plane to do.
#![forbid(unsafe_code)]

use crate::flow::{Flow, State};
use crate::shared::{Bounds, Order, Seen};
use crate::sys;
use crate::worker::{watch_listener, Listening, Worker};
use std::collections::HashMap;

impl Worker {
    pub fn carry_out(&mut self) {
        sys::silence(self.post().bell);
        while let Some(order) = self.post().take() {
            self.obey(order);
            self.post().carried_out();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Listen { fd, listener, party } => {
                self.listening.insert(listener, Listening { fd, listener, party });
                if self.accepting {
                    watch_listener(self.epoll, fd, listener);
                }
            }
            Order::Unlisten { listener, cause } => {
                self.unlisten(listener);
                self.cut_where(&cause, |flow| flow.listener == listener);
            }
            Order::Drain { cause } => {
                for listener in self.listening.keys().copied().collect::<Vec<_>>() {
                    self.unlisten(listener);
                }
                self.cut_where(&cause, |flow| flow.state == State::Head);
            }
            Order::Publish { key, verdict } => {
                self.verdicts.insert(key, verdict);
            }
            Order::Forget => self.verdicts.clear(),
            Order::Review(bounds) => self.review(&bounds),
            Order::CutFlow { id, cause } => {
                self.cut_where(&cause, |flow| flow.grant.as_ref().map_or(false, |grant| grant.id == id));
            }
            Order::CutAll { cause } => self.cut_where(&cause, |_| true),
            Order::Snapshot(seen) => {
                let mine = self.snapshot();
                seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(mine);
            }
            Order::Breathe => {
                self.choked = false;
                self.accept_again();
                self.again.append(&mut self.parked);
            }
            Order::Stop => self.stopping = true,
            Order::Panic => panic!("asked to"),
        }
    }

    fn unlisten(&mut self, listener: u32) {
        if let Some(listening) = self.listening.remove(&listener) {
            if self.accepting {
                sys::unwatch(self.epoll, listening.fd);
            }
        }
    }

    fn cut_where(&mut self, cause: &str, which: impl Fn(&Flow) -> bool) {
        for place in 0..self.flows.len() {
            if self.flows[place].state != State::Free && which(&self.flows[place]) {
                self.end(place as u32, cause, true);
            }
        }
    }

    fn review(&mut self, bounds: &HashMap<u32, Bounds>) {
        let now = sys::monotonic();
        for place in 0..self.flows.len() {
            let flow = &self.flows[place];
            let grant = match &flow.grant {
                Some(grant) => grant,
                None => continue,
            };
            let bounds = match bounds.get(&grant.verdict.number) {
                Some(bounds) => bounds,
                None => continue,
            };
            // Before the relay the deadlines of the dial and the hello hold.
            let last = if grant.relaying { flow.last_byte } else { grant.since };
            let since = grant.since;
            if !bounds.cause.is_empty() {
                self.end(place as u32, &bounds.cause, true);
            } else if now.saturating_sub(last) >= bounds.idle {
                self.end(place as u32, "\"idle\"", true);
            } else if now.saturating_sub(since) >= bounds.lifetime {
                self.end(place as u32, "\"lifetime\"", true);
            }
        }
    }

    fn snapshot(&self) -> Vec<Seen> {
        let seen = |flow: &Flow| {
            let grant = flow.grant.as_ref()?;
            let down = flow.upstream.map_or(0, |link| self.links[link as usize].side.bytes);
            Some(Seen {
                verdict: grant.verdict.number,
                id: grant.id,
                since: grant.since,
                last_byte: flow.last_byte,
                up: flow.client.bytes,
                down,
                relaying: grant.relaying,
            })
        };
        self.flows.iter().filter_map(seen).collect()
    }

    /// Lets go of every connection, whatever state a panic has left it in.
    pub fn abandon(&mut self, cause: &str) {
        self.listening.clear();
        for place in 0..self.flows.len() {
            if self.flows[place].state != State::Free {
                self.end(place as u32, cause, true);
            }
        }
        for (reading, writing) in self.pipes.drain(..) {
            sys::shut(reading);
            sys::shut(writing);
        }
        sys::shut(self.epoll);
    }
}
