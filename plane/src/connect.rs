//! A CONNECT from its head to the end of its tunnel. At each boundary that is not plainly in order it goes to Python.
#![forbid(unsafe_code)]

use crate::flow::{Dial, Grant, State, NOBODY};
use crate::head;
use crate::hello::{self, Hello};
use crate::plain::{add_credentials, handed_exchange};
use crate::record::{Asked, End};
use crate::shared::{Granted, Handed, Stage};
use crate::side::{self, Pumped};
use crate::sys::{self, Io};
use crate::verdict::{Verdict, ID};
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// RFC 8305, section 5: microseconds between two attempts.
const ATTEMPT_DELAY: u64 = 250_000;
pub const CLIENT_RESET: &str = "\"client_reset\"";
pub const UPSTREAM_FAILED: &str = "\"upstream_error:response\"";
pub const CLOSED: &str = "\"closed\"";
/// Random bytes that are drawn at once.
const DRAWN: usize = ID * 256;

impl Worker {
    // The head.

    pub fn read_head(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        if !flow.client.flush() {
            return self.end(place, "", true);
        }
        if !flow.client.drained() || (flow.unread.is_empty() && !flow.client.readable) {
            return;
        }
        if self.choked {
            return self.park(place);
        }
        if !flow.unread.is_empty() {
            let data = std::mem::take(&mut flow.unread);
            return self.judge_head(place, &data);
        }
        match self.flows[place as usize].client.read(&mut self.buffer) {
            Io::Moved(count) => {
                let data = self.buffer[..count].to_vec(); // the steps behind it need the buffer
                self.judge_head(place, &data);
            }
            Io::Again => {}
            Io::End | Io::Failed => self.end(place, "", false),
        }
    }

    fn judge_head(&mut self, place: u32, data: &[u8]) {
        let began = sys::monotonic();
        if !data.starts_with(b"CONNECT ") || self.flows[place as usize].served {
            return self.judge_plain(place, data, began);
        }
        let settings = &self.shared.settings;
        let head = match head::read(data, settings.max_head_bytes, settings.max_head_fields) {
            Some(head) => head,
            None => return self.hand_over(place, Stage::Head, data.to_vec()),
        };
        let mut key = self.key_of(place, &data[head.authority.clone()]);
        add_credentials(&mut key, data, &head.credentials);
        let verdict = match self.verdict_on(&key) {
            Some(verdict) => verdict,
            None => return self.hand_over(place, Stage::Head, data.to_vec()),
        };
        let id = match self.new_id() {
            Some(id) if verdict.account.enter(&verdict.limits, self.now, &self.shared.turn) => id,
            _ => return self.hand_over(place, Stage::Head, data.to_vec()),
        };
        self.grant(place, &verdict, id, began, &Asked::default());
        self.flows[place as usize].unread = data[head.length..].to_vec();
        self.begin_dial(place);
    }

    /// The one that is in force for this head, if there is one.
    pub fn verdict_on(&mut self, key: &[u8]) -> Option<Arc<Verdict>> {
        if self.shared.suspended.load(SeqCst) {
            return None;
        }
        let verdict = self.verdicts.get(key)?;
        if verdict.live.load(SeqCst) && sys::monotonic() < verdict.expires {
            return Some(verdict.clone());
        }
        self.verdicts.remove(key);
        None
    }

    /// The beginning of the key of a verdict: the credentials follow.
    pub fn key_of(&self, place: u32, target: &[u8]) -> Vec<u8> {
        let mut key = self.flows[place as usize].listener.to_le_bytes().to_vec();
        key.extend_from_slice(target);
        key
    }

    /// Unpredictable, as those of Python are; None when the kernel gives no random bytes.
    pub fn new_id(&mut self) -> Option<[u8; ID]> {
        if self.ids.len() < ID {
            self.ids = vec![0; DRAWN];
            if !sys::random(&mut self.ids) {
                self.ids.clear();
                return None;
            }
        }
        let mut id = [0; ID];
        id.copy_from_slice(&self.ids[self.ids.len() - ID..]);
        self.ids.truncate(self.ids.len() - ID);
        Some(id)
    }

    pub fn grant(&mut self, place: u32, verdict: &Arc<Verdict>, id: [u8; ID], began: u64, asked: &Asked<'_>) {
        let now = sys::monotonic();
        let counts = &verdict.counts;
        counts.granted.fetch_add(1, SeqCst);
        counts.open.fetch_add(1, SeqCst);
        *counts.last_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = id;
        if self.shared.records.decided(verdict, &id, sys::wall(), asked) {
            self.choked = true;
            self.stop_accepting();
        }
        self.shared.decision_seconds.observe(now - began);
        let verdict = verdict.clone();
        self.flows[place as usize].grant = Some(Grant { verdict, id, since: now, counted: 0, relaying: false });
    }

    // The dial.

    pub fn begin_dial(&mut self, place: u32) {
        let deadline = self.now + self.shared.settings.connect_timeout;
        let flow = &mut self.flows[place as usize];
        flow.state = State::Dial;
        flow.dial = Some(Box::new(Dial {
            next_address: 0,
            attempts: Vec::new(),
            next_at: 0,
            deadline,
            began: self.now,
            error: sys::ENETUNREACH,
        }));
        self.try_next_address(place);
    }

    /// Begins attempts until one is under way, has connected, or none is left.
    fn try_next_address(&mut self, place: u32) {
        loop {
            let flow = &mut self.flows[place as usize];
            let (dial, grant) = match (&mut flow.dial, &flow.grant) {
                (Some(dial), Some(grant)) => (dial, grant),
                _ => return,
            };
            let address = match grant.verdict.addresses.get(dial.next_address) {
                Some(address) => *address,
                None if dial.attempts.is_empty() => return self.unreachable(place),
                None => break,
            };
            dial.next_address += 1;
            match sys::dial(&address) {
                Ok((fd, connected)) => match self.new_link(fd, place, connected, address) {
                    Some(link) if connected => return self.connected(place, link),
                    Some(link) => {
                        if let Some(dial) = &mut self.flows[place as usize].dial {
                            dial.attempts.push(link);
                        }
                        break;
                    }
                    None => {}
                },
                Err(error) => dial.error = error,
            }
        }
        self.wait_for_attempts(place);
    }

    fn wait_for_attempts(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        if let (Some(dial), Some(grant)) = (&mut flow.dial, &flow.grant) {
            let more = dial.next_address < grant.verdict.addresses.len();
            dial.next_at = if more { self.now + ATTEMPT_DELAY } else { dial.deadline };
            let when = dial.next_at.min(dial.deadline);
            self.arm(place, when);
        }
    }

    pub fn upstream_moved(&mut self, link: u32, events: u32) {
        let (place, fd) = (self.links[link as usize].flow, self.links[link as usize].side.fd);
        if place == NOBODY {
            return self.kept_moved(link);
        }
        if self.links[link as usize].connected {
            return self.progress(place);
        }
        match sys::error_of(fd) {
            0 if events & sys::OUT != 0 => self.connected(place, link),
            0 => {}
            error => {
                self.drop_link(link, false);
                if let Some(dial) = &mut self.flows[place as usize].dial {
                    dial.attempts.retain(|attempt| *attempt != link);
                    dial.error = error;
                }
                self.try_next_address(place);
            }
        }
    }

    fn connected(&mut self, place: u32, link: u32) {
        self.links[link as usize].connected = true;
        if let Some(dial) = self.flows[place as usize].dial.take() {
            for attempt in dial.attempts {
                if attempt != link {
                    self.drop_link(attempt, false);
                }
            }
            self.shared.connect_seconds.observe(self.now - dial.began);
        }
        self.flows[place as usize].upstream = Some(link);
        self.establish(place);
    }

    fn unreachable(&mut self, place: u32) {
        let error = self.flows[place as usize].dial.as_ref().map_or(0, |dial| dial.error);
        let stage = match error {
            error if sys::OUT_OF_RESOURCES.contains(&error) => Stage::Exhausted,
            sys::ETIMEDOUT => Stage::Late,
            _ => Stage::Unreachable,
        };
        self.give_back_unread(place, stage);
    }

    /// The flow's own deadline has come.
    pub fn timed_out(&mut self, place: u32) {
        let flow = &self.flows[place as usize];
        match flow.state {
            State::Head if flow.client.readable => self.arm(place, self.now + self.shared.settings.head_timeout),
            State::Head => self.end(place, "", false),
            State::Dial => match &flow.dial {
                Some(dial) if self.now < dial.deadline => self.try_next_address(place),
                _ => self.give_back_unread(place, Stage::Late),
            },
            State::Hello => self.give_back_unread(place, Stage::Hello),
            State::Exchange => self.silent(place),
            State::Linger => self.end(place, "", true),
            State::Free | State::Guard | State::Relay => {}
        }
    }

    // The ClientHello, and the answer to it.

    fn establish(&mut self, place: u32) {
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
        }
    }

    fn begin_relay(&mut self, place: u32) {
        if self.flows[place as usize].state != State::Guard {
            self.begin_guard(place);
        }
        let flow = &mut self.flows[place as usize];
        flow.state = State::Relay;
        flow.last_byte = self.now;
        self.take_turn_again(place);
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

    // The end.

    /// Ends a connection, and puts the end of its flow on record if it had begun. `hard` resets both sides.
    pub fn end(&mut self, place: u32, cause: &str, hard: bool) {
        self.count_bytes(place);
        let flow = &mut self.flows[place as usize];
        let (up, party) = (flow.client.bytes, flow.party);
        flow.client.close(hard, &mut self.pipes);
        let (grant, upstream, dial) = (flow.grant.take(), flow.upstream.take(), flow.dial.take());
        let mut down = 0;
        if let Some(link) = upstream {
            down = self.links[link as usize].side.bytes;
            self.drop_link(link, hard);
        }
        for attempt in dial.map_or(Vec::new(), |dial| dial.attempts) {
            self.drop_link(attempt, false);
        }
        if let Some(grant) = grant {
            self.finish(&grant, cause, up, down);
        }
        self.free_flow(place);
        self.shared.leave(party);
        self.gone();
    }

    pub fn finish(&self, grant: &Grant, cause: &str, up: u64, down: u64) {
        let lasted = sys::monotonic() - grant.since;
        let (verdict, counts) = (&grant.verdict, &grant.verdict.counts);
        verdict.account.leave();
        counts.bytes_up.fetch_add(up, SeqCst);
        counts.bytes_down.fetch_add(down, SeqCst);
        if grant.relaying {
            counts.relaying.fetch_sub(1, SeqCst);
        }
        let seconds = if verdict.plain.is_some() { &self.shared.plain_seconds } else { &self.shared.request_seconds };
        seconds.observe(lasted);
        self.shared.records.ended(&End { id: &grant.id, wall: sys::wall(), up, down, lasted, cause }, &verdict.end);
        // Last: who sees no open flow finds its end on record.
        counts.open.fetch_sub(1, SeqCst);
    }

    fn gone(&self) {
        if self.shared.connections.fetch_sub(1, SeqCst) == 1 {
            sys::ring(self.shared.bell);
        }
    }

    // To Python.

    pub fn hand_over_unadmitted(&mut self, place: u32) {
        let flow = &self.flows[place as usize];
        let (fd, listener) = (flow.client.fd, flow.listener);
        self.free_flow(place);
        let client_bytes = Vec::new();
        self.shared.hand_over(Handed {
            stage: Stage::Head,
            fd,
            listener,
            admitted: false,
            client_bytes,
            granted: None,
            underway: None,
        });
    }

    pub fn give_back_unread(&mut self, place: u32, stage: Stage) {
        let unread = std::mem::take(&mut self.flows[place as usize].unread);
        self.hand_over(place, stage, unread);
    }

    pub fn hand_over(&mut self, place: u32, stage: Stage, client_bytes: Vec<u8>) {
        self.hand_over_all(place, stage, client_bytes, Vec::new());
    }

    fn hand_over_guarded(&mut self, place: u32, client_bytes: Vec<u8>, server_bytes: Vec<u8>) {
        let flow = &self.flows[place as usize];
        let upstream_is_behind = flow.upstream.map_or(true, |link| !self.links[link as usize].side.drained());
        if upstream_is_behind {
            // A server that does not even take a hello: nothing that is kept here may get lost on the way.
            return self.end(place, UPSTREAM_FAILED, true);
        }
        self.hand_over_all(place, Stage::Guard, client_bytes, server_bytes);
    }

    pub fn hand_over_all(&mut self, place: u32, stage: Stage, client_bytes: Vec<u8>, server_bytes: Vec<u8>) {
        self.count_bytes(place);
        let flow = &mut self.flows[place as usize];
        if !flow.client.drained() {
            return self.end(place, CLIENT_RESET, true); // a client that does not even take its 200
        }
        let (fd, listener, up, deadline) = (flow.client.fd, flow.listener, flow.client.bytes, flow.deadline);
        let (grant, link, dial) = (flow.grant.take(), flow.upstream.take(), flow.dial.take());
        let (client_bytes, mut underway) = handed_exchange(flow.exchange.take(), client_bytes);
        sys::unwatch(self.epoll, fd);
        for attempt in dial.map_or(Vec::new(), |dial| dial.attempts) {
            self.drop_link(attempt, false);
        }
        let mut upstream = side::NONE;
        if let Some(link) = link {
            let side = &mut self.links[link as usize].side;
            upstream = side.fd;
            if let Some(underway) = &mut underway {
                underway.unsent = side.take_pending();
            }
            sys::unwatch(self.epoll, upstream);
            self.forget_link(link);
        }
        if let Some(grant) = grant.as_ref().filter(|grant| grant.relaying) {
            grant.verdict.counts.relaying.fetch_sub(1, SeqCst);
        }
        let granted = grant.map(|grant| Granted {
            verdict: grant.verdict,
            id: grant.id,
            since: grant.since,
            upstream,
            server_bytes,
            up,
            hello_deadline: deadline,
        });
        self.free_flow(place);
        self.shared.hand_over(Handed { stage, fd, listener, admitted: true, client_bytes, granted, underway });
    }
}
