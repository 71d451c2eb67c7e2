//! What Python tells a thread of the plane to do.
#![forbid(unsafe_code)]

use crate::flow::{Flow, State};
use crate::shared::{Order, Review, Room, Seen};
use crate::sys;
use crate::worker::Worker;

impl Worker {
    pub fn carry_out(&mut self) {
        while let Some(order) = self.post().take() {
            self.obey(order);
            self.post().carried_out();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Listen { fd, listener, party } => self.listen(fd, listener, party),
            Order::Unlisten { listener, cause } => {
                self.unlisten(listener);
                self.cut_where(&cause, |flow| flow.listener == listener);
            }
            Order::Drain => {
                for listener in self.listening.keys().copied().collect::<Vec<_>>() {
                    self.unlisten(listener);
                }
                self.close_kept();
                self.dismiss();
            }
            Order::Publish { key, verdict } => {
                self.verdicts.insert(key, verdict);
                self.sweep_soon();
            }
            Order::Adopt { fd, listener, party } => self.take_back(fd, listener, party),
            Order::Return { fd, listener, party, data, took } => {
                let place = self.new_flow(fd, listener, party);
                self.flows[place as usize].asked = Some(took);
                self.flows[place as usize].unread = data;
                self.go_on(place);
            }
            Order::Forget => {
                self.verdicts.clear();
                self.close_kept();
            }
            Order::Review(review) => self.review(&review),
            Order::CutFlow { id, cause } => {
                self.cut_where(&cause, |flow| flow.grant.as_ref().map_or(false, |grant| grant.id == id));
            }
            Order::CutAll { cause } => self.cut_where(&cause, |_| true),
            Order::MakeRoom(room) => self.make_room(room),
            Order::Snapshot(seen) => {
                let mine = self.snapshot();
                seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(mine);
            }
            Order::Breathe => self.breathe(),
            Order::Stop => self.stopping = true,
            Order::Panic => panic!("asked to"),
        }
    }

    /// From Python, between two of its requests.
    fn take_back(&mut self, fd: i32, listener: u32, party: usize) {
        let place = self.new_flow(fd, listener, party);
        self.flows[place as usize].served = true;
        if !self.listening.contains_key(&listener) {
            return self.end(place, "", true);
        }
        self.watch_client(place, self.shared.settings.keep_alive_timeout);
    }

    /// With a head that there is a verdict on by now.
    fn go_on(&mut self, place: u32) {
        if !self.listening.contains_key(&self.flows[place as usize].listener) {
            return self.end(place, "", true);
        }
        self.watch_client(place, self.shared.settings.head_timeout);
        if self.flows[place as usize].state == State::Head {
            self.read_head(place);
        }
    }

    fn cut_where(&mut self, cause: &str, which: impl Fn(&Flow) -> bool) {
        for place in 0..self.flows.len() {
            if self.flows[place].state != State::Free && which(&self.flows[place]) {
                self.end(place as u32, cause, true);
            }
        }
    }

    /// Ends all that ask for nothing. Who has not got the whole of its last response does get it.
    fn dismiss(&mut self) {
        for place in 0..self.flows.len() {
            let flow = &self.flows[place];
            if flow.state != State::Head || !flow.unread.is_empty() {
                continue;
            }
            if flow.client.settled(0) {
                self.end(place as u32, "", false);
            } else if !sys::has_more(flow.client.fd) {
                self.begin_linger(place as u32);
            }
        }
    }

    /// Those go first that have been quiet for the longest time.
    fn make_room(&mut self, room: Room) {
        let (now, settings) = (sys::monotonic(), &self.shared.settings);
        let quiet = |flow: &Flow| if flow.served { room.further } else { room.first };
        let since = |flow: &Flow| {
            let patience = if flow.served { settings.keep_alive_timeout } else { settings.head_timeout };
            flow.deadline.saturating_sub(patience)
        };
        let leaves = |flow: &Flow| {
            let asks_nothing = flow.state == State::Head && flow.unread.is_empty() && !flow.client.readable;
            let of_party = room.party.map_or(true, |party| flow.party == party);
            asks_nothing && of_party && since(flow) <= now.saturating_sub(quiet(flow))
        };
        let mut found: Vec<(u64, u32, u64)> = (0..)
            .zip(self.flows.iter())
            .filter(|(_, flow)| leaves(flow))
            .map(|(place, flow)| (since(flow), place, quiet(flow)))
            .collect();
        found.sort_unstable();
        self.drop_stalled(room.party);
        let mut left = room.most;
        for (_, place, quiet) in found {
            if left > 0 && self.flows[place as usize].client.settled(quiet) {
                self.end(place, "", false);
                left -= 1;
            }
        }
    }

    fn review(&mut self, review: &Review) {
        let now = sys::monotonic();
        for place in 0..self.flows.len() {
            let flow = &self.flows[place];
            let grant = match &flow.grant {
                Some(grant) => grant,
                None => continue,
            };
            let bounds = match review.of_flow.get(&grant.id).or_else(|| review.of_verdict.get(&grant.verdict.number)) {
                Some(bounds) => bounds,
                None => continue,
            };
            // Before the relay the deadlines of the dial and the hello hold.
            let last = if grant.relaying || flow.exchange.is_some() { flow.last_byte } else { grant.since };
            let since = grant.since;
            let untold = flow.exchange.as_ref().map_or(false, |exchange| !exchange.started && !exchange.told);
            if !bounds.cause.is_empty() && untold {
                self.hand_over_exchange(place as u32); // the client is to be told why
            } else if !bounds.cause.is_empty() {
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
                asked: flow.exchange.as_ref().map_or(Vec::new(), |exchange| exchange.asked()),
            })
        };
        self.flows.iter().filter_map(seen).collect()
    }

    /// Lets go of every connection, whatever state a panic has left it in.
    pub fn abandon(&mut self, cause: &str) {
        self.listening.clear();
        self.close_kept();
        for place in 0..self.flows.len() {
            if self.flows[place].state != State::Free {
                self.end(place as u32, cause, true);
            }
        }
        for order in self.post().close() {
            if let Order::Adopt { fd, listener, party } | Order::Return { fd, listener, party, .. } = order {
                let place = self.new_flow(fd, listener, party);
                self.end(place, cause, true);
            }
        }
        for (reading, writing) in self.pipes.drain(..) {
            sys::shut(reading);
            sys::shut(writing);
        }
        sys::shut(self.epoll);
    }
}
