//! How a connection leaves the plane: it ends and is put on record, or goes to Python with all that belongs to it.
#![forbid(unsafe_code)]

use crate::flow::Grant;
use crate::plain::handed_exchange;
use crate::record::End;
use crate::shared::{Granted, Handed, Stage};
use crate::side;
use crate::sys;
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;

pub const CLIENT_RESET: &str = "\"client_reset\"";
pub const UPSTREAM_FAILED: &str = "\"upstream_error:response\"";
pub const CLOSED: &str = "\"closed\"";
pub const MALFORMED_REQUEST: &str = "\"refused:malformed_request\"";

impl Worker {
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
        self.look_for_places();
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
        let end = End { id: &grant.id, wall: sys::wall(), up, down, lasted, cause };
        match &grant.slip {
            Some(slip) if cause == CLOSED => self.shared.records.completed(slip, &end, &verdict.end),
            _ => self.shared.records.ended(&end, &verdict.end),
        }
        // Last: who sees no open flow finds its end on record.
        counts.open.fetch_sub(1, SeqCst);
        counts.have_changed();
    }

    fn gone(&self) {
        if self.shared.connections.fetch_sub(1, SeqCst) == 1 {
            sys::ring(self.shared.bell);
        }
    }

    // To Python.

    pub fn give_back_unread(&mut self, place: u32, stage: Stage) {
        let unread = std::mem::take(&mut self.flows[place as usize].unread);
        self.hand_over(place, stage, unread);
    }

    pub fn hand_over(&mut self, place: u32, stage: Stage, client_bytes: Vec<u8>) {
        self.hand_over_all(place, stage, client_bytes, Vec::new());
    }

    pub fn hand_over_guarded(&mut self, place: u32, client_bytes: Vec<u8>, server_bytes: Vec<u8>) {
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
            grant.verdict.counts.have_changed();
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
        self.shared.hand_over(Handed { stage, fd, listener, client_bytes, granted, underway });
    }
}
