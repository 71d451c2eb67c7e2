//! From the 200 to the end of the tunnel: the ClientHello, the answer to it, and the relay.
#![forbid(unsafe_code)]

use crate::ending::{CLIENT_RESET, CLOSED, UPSTREAM_FAILED};
use crate::flow::State;
use crate::hello::{self, Hello};
use crate::shared::Stage;
use crate::side::{self, Pumped};
use crate::sys::Io;
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

impl Worker {
    // The ClientHello, and the answer to it.

    pub fn establish(&mut self, place: u32) {
        if self.flows[place as usize].exchange.is_some() {
            return self.send_first(place);
        }
        let flow = &mut self.flows[place as usize];
        let needs_hello = flow.grant.as_ref().map_or(true, |grant| grant.verdict.needs_hello);
        if !flow.client.write(ESTABLISHED) {
            return self.end(place, CLIENT_RESET, true);
        }
        if needs_hello {
            flow.state = State::Hello;
            self.arm(place, self.now + self.shared.settings.hello_timeout);
            return self.read_hello(place);
        }
        let first = std::mem::take(&mut flow.unread);
        if self.send_upstream(place, &first) {
            self.begin_relay(place);
        }
    }

    pub fn read_hello(&mut self, place: u32) {
        loop {
            let flow = &mut self.flows[place as usize];
            let grant = match &flow.grant {
                Some(grant) => grant,
                None => return,
            };
            if !flow.unread.is_empty() {
                match hello::client(&flow.unread, &grant.verdict.host, grant.verdict.literal) {
                    Hello::More => {}
                    Hello::Other => return self.give_back_unread(place, Stage::Hello),
                    Hello::Passes => {
                        let first = std::mem::take(&mut flow.unread);
                        if self.send_upstream(place, &first) {
                            self.begin_guard(place);
                            self.read_answer(place);
                        }
                        return;
                    }
                }
            }
            if !flow.client.readable {
                return;
            }
            match flow.client.read(&mut self.buffer) {
                Io::Moved(count) => flow.unread.extend_from_slice(&self.buffer[..count]),
                Io::Again => return,
                Io::End if flow.unread.is_empty() => return self.end(place, CLOSED, false),
                Io::End => return self.give_back_unread(place, Stage::Hello),
                Io::Failed => return self.end(place, CLIENT_RESET, true),
            }
        }
    }

    /// Until the server has taken the hello nothing passes that Python has not looked at.
    pub fn read_answer(&mut self, place: u32) {
        let link = match self.flows[place as usize].upstream {
            Some(link) => link as usize,
            None => return,
        };
        if self.links[link].side.readable {
            match self.links[link].side.read(&mut self.buffer) {
                Io::Moved(count) if hello::server_accepts(&self.buffer[..count]) => {
                    self.links[link].side.bytes += count as u64;
                    if self.flows[place as usize].client.write(&self.buffer[..count]) {
                        self.begin_relay(place);
                    } else {
                        self.end(place, CLIENT_RESET, true);
                    }
                }
                Io::Moved(count) => {
                    let answer = self.buffer[..count].to_vec();
                    self.hand_over_guarded(place, Vec::new(), answer);
                }
                Io::Again => {}
                Io::End => self.hand_over_guarded(place, Vec::new(), Vec::new()),
                Io::Failed => self.end(place, UPSTREAM_FAILED, true),
            }
        } else if self.flows[place as usize].client.readable {
            match self.flows[place as usize].client.read(&mut self.buffer) {
                Io::Moved(count) => {
                    let said = self.buffer[..count].to_vec();
                    self.hand_over_guarded(place, said, Vec::new());
                }
                Io::Again => {}
                Io::End => self.hand_over_guarded(place, Vec::new(), Vec::new()),
                Io::Failed => self.end(place, CLIENT_RESET, true),
            }
        }
    }

    /// Bytes of the client, counted; false when the tunnel has ended by it.
    fn send_upstream(&mut self, place: u32, bytes: &[u8]) -> bool {
        let flow = &mut self.flows[place as usize];
        let link = match flow.upstream {
            Some(link) => link as usize,
            None => return false,
        };
        flow.client.bytes += bytes.len() as u64;
        if bytes.is_empty() || self.links[link].side.write(bytes) {
            return true;
        }
        self.end(place, UPSTREAM_FAILED, true);
        false
    }

    // The tunnel.

    fn begin_guard(&mut self, place: u32) {
        self.arm(place, 0);
        let flow = &mut self.flows[place as usize];
        flow.state = State::Guard;
        flow.last_byte = self.now;
        if let Some(grant) = &mut flow.grant {
            grant.relaying = true;
            grant.verdict.counts.relaying.fetch_add(1, SeqCst);
            grant.verdict.counts.have_changed();
        }
    }

    fn begin_relay(&mut self, place: u32) {
        if self.flows[place as usize].state != State::Guard {
            self.begin_guard(place);
        }
        let flow = &mut self.flows[place as usize];
        flow.state = State::Relay;
        flow.last_byte = self.now;
        self.relay(place); // what is there already, perhaps nothing
    }

    pub fn relay(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        let upstream = match flow.upstream {
            Some(link) => &mut self.links[link as usize].side,
            None => return,
        };
        let client = &mut flow.client;
        let before = client.bytes + upstream.bytes;
        let up = side::pump(client, upstream, &mut self.buffer, &mut self.pipes);
        let down = side::pump(upstream, client, &mut self.buffer, &mut self.pipes);
        let over = client.fin_sent && upstream.fin_sent && client.drained() && upstream.drained();
        if client.bytes + upstream.bytes > before {
            flow.last_byte = self.now;
            self.count_bytes(place);
        }
        match (up, down) {
            (Pumped::SourceFailed, _) | (_, Pumped::SinkFailed) => self.end(place, CLIENT_RESET, true),
            (Pumped::SinkFailed, _) | (_, Pumped::SourceFailed) => self.end(place, UPSTREAM_FAILED, true),
            _ if over => self.end(place, CLOSED, false),
            (Pumped::More, _) | (_, Pumped::More) => self.take_turn_again(place),
            _ => {}
        }
    }

    /// Tells the account what has passed since it was told last.
    pub fn count_bytes(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        let down = flow.upstream.map_or(0, |link| self.links[link as usize].side.bytes);
        let total = flow.client.bytes + down;
        if let Some(grant) = &mut flow.grant {
            if total > grant.counted {
                grant.verdict.account.add_bytes(total - grant.counted, self.now, &self.shared.turn);
                grant.counted = total;
            }
        }
    }
}
