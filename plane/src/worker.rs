//! One thread of the plane: an epoll (edge-triggered, each socket added once), its connections, and its orders.
#![forbid(unsafe_code)]

use crate::flow::{Flow, Link, State};
use crate::shared::{Bounds, Order, Post, Seen, Shared};
use crate::side::Side;
use crate::sys::{self, EpollEvent};
use crate::verdict::Verdict;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

const BUFFER: usize = 65_536;
const EVENTS: usize = 512;
const ACCEPT_AT_ONCE: usize = 64;
/// Microseconds until connections are accepted again after the process ran out of descriptors.
const PAUSE: u64 = 100_000;
const SOCKET: u32 = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
const BELL: u64 = u64::MAX;
const LISTENER: u32 = u32::MAX;
const GENERATIONS: u32 = 0x7fff_ffff;

struct Listening {
    fd: i32,
    listener: u32,
    party: usize,
}

pub struct Worker {
    pub shared: Arc<Shared>,
    number: usize,
    pub epoll: i32,
    pub flows: Vec<Flow>,
    free_flows: Vec<u32>,
    pub links: Vec<Link>,
    free_links: Vec<u32>,
    pub verdicts: HashMap<Vec<u8>, Arc<Verdict>>,
    listening: HashMap<u32, Listening>,
    accepting: bool,
    resume_at: u64,
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    /// Flows whose turn was over, and that have more.
    again: Vec<u64>,
    /// Heads that wait until the log has room.
    pub parked: Vec<u64>,
    pub choked: bool,
    pub buffer: Vec<u8>,
    pub pipes: Vec<(i32, i32)>,
    pub ids: Vec<u8>,
    /// Monotonic microseconds, of this turn.
    pub now: u64,
    stopping: bool,
}

fn token(generation: u32, place: u32, upstream: bool) -> u64 {
    u64::from(generation) << 32 | u64::from(place) << 1 | u64::from(upstream)
}

impl Worker {
    pub fn new(shared: Arc<Shared>, number: usize) -> Self {
        let epoll = sys::new_epoll();
        sys::watch(epoll, shared.posts[number].bell, sys::IN, BELL);
        Worker {
            shared,
            number,
            epoll,
            flows: Vec::new(),
            free_flows: Vec::new(),
            links: Vec::new(),
            free_links: Vec::new(),
            verdicts: HashMap::new(),
            listening: HashMap::new(),
            accepting: true,
            resume_at: 0,
            timers: BinaryHeap::new(),
            again: Vec::new(),
            parked: Vec::new(),
            choked: false,
            buffer: vec![0; BUFFER],
            pipes: Vec::new(),
            ids: Vec::new(),
            now: sys::monotonic(),
            stopping: false,
        }
    }

    fn post(&self) -> &Post {
        &self.shared.posts[self.number]
    }

    /// Until it is told to stop, or another thread of the plane has died.
    pub fn run(&mut self) {
        let mut events = [EpollEvent { events: 0, data: 0 }; EVENTS];
        while !self.stopping && !self.shared.dead.load(SeqCst) {
            let found = sys::wait(self.epoll, &mut events, self.patience());
            self.now = sys::monotonic();
            let again = std::mem::take(&mut self.again);
            for event in &events[..found] {
                let (what, whose) = (event.events, event.data);
                self.event(whose, what);
            }
            for whose in again {
                self.event(whose, 0);
            }
            self.ring_timers();
        }
    }

    /// Milliseconds until something is due.
    fn patience(&self) -> i32 {
        if !self.again.is_empty() {
            return 0;
        }
        let mut due = self.timers.peek().map_or(u64::MAX, |timer| timer.0 .0);
        if self.resume_at != 0 {
            due = due.min(self.resume_at);
        }
        let now = sys::monotonic();
        (due.saturating_sub(now).min(1_000_000) + 999) as i32 / 1000
    }

    fn event(&mut self, whose: u64, what: u32) {
        if whose == BELL {
            return self.carry_out();
        }
        let (generation, place, upstream) = ((whose >> 32) as u32, (whose as u32) >> 1, whose & 1 == 1);
        if generation == LISTENER {
            return self.accept(place);
        }
        if upstream {
            match self.links.get_mut(place as usize) {
                Some(link) if link.generation == generation => link.side.mark(what),
                _ => return,
            }
            return self.upstream_moved(place, what);
        }
        match self.flows.get_mut(place as usize) {
            Some(flow) if flow.generation == generation => flow.client.mark(what),
            _ => return,
        }
        self.progress(place);
    }

    /// Looks at a flow whose client has moved, or whose turn has come again.
    pub fn progress(&mut self, place: u32) {
        match self.flows[place as usize].state {
            State::Free => {}
            State::Head => self.read_head(place),
            State::Dial => {
                if self.flows[place as usize].client.hung_up {
                    self.end(place, "\"client_reset\"", true);
                }
            }
            State::Hello => self.read_hello(place),
            State::Guard => self.read_answer(place),
            State::Relay => self.relay(place),
        }
    }

    pub fn take_turn_again(&mut self, place: u32) {
        self.again.push(token(self.flows[place as usize].generation, place, false));
    }

    pub fn park(&mut self, place: u32) {
        self.parked.push(token(self.flows[place as usize].generation, place, false));
    }

    // Timers.

    /// The flow is looked at when the time has come; 0 is never.
    pub fn arm(&mut self, place: u32, when: u64) {
        let flow = &mut self.flows[place as usize];
        flow.deadline = when;
        if when != 0 && (flow.timer == 0 || when < flow.timer) {
            flow.timer = when;
            self.timers.push(Reverse((when, token(flow.generation, place, false))));
        }
    }

    fn ring_timers(&mut self) {
        if self.resume_at != 0 && self.now >= self.resume_at {
            self.resume_at = 0;
            self.accept_again();
        }
        while let Some(Reverse((when, whose))) = self.timers.peek().copied() {
            if when > self.now {
                return;
            }
            self.timers.pop();
            let (generation, place) = ((whose >> 32) as u32, (whose as u32) >> 1);
            let flow = match self.flows.get_mut(place as usize) {
                Some(flow) if flow.generation == generation && flow.timer == when => flow,
                _ => continue,
            };
            flow.timer = 0;
            match flow.deadline {
                0 => {}
                deadline if deadline > self.now => self.arm(place, deadline),
                _ => {
                    flow.deadline = 0;
                    self.timed_out(place);
                }
            }
        }
    }

    // Accepting.

    fn accept(&mut self, listener: u32) {
        let (fd, party) = match self.listening.get(&listener) {
            Some(listening) if self.accepting => (listening.fd, listening.party),
            _ => return,
        };
        for _ in 0..ACCEPT_AT_ONCE {
            match sys::accept(fd) {
                Ok(client) => self.welcome(client, listener, party),
                Err(error) => {
                    if sys::OUT_OF_RESOURCES.contains(&error) {
                        self.stop_accepting();
                        self.resume_at = self.now + PAUSE;
                    }
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, fd: i32, listener: u32, party: usize) {
        self.shared.accepted.fetch_add(1, SeqCst);
        self.shared.connections.fetch_add(1, SeqCst);
        let place = self.new_flow(fd, listener, party);
        if !self.shared.admit(party) {
            return self.hand_over_unadmitted(place);
        }
        let whose = token(self.flows[place as usize].generation, place, false);
        if !sys::watch(self.epoll, fd, SOCKET, whose) {
            return self.end(place, "", true);
        }
        self.arm(place, self.now + self.shared.settings.head_timeout);
    }

    pub fn stop_accepting(&mut self) {
        if self.accepting {
            self.accepting = false;
            for listening in self.listening.values() {
                sys::unwatch(self.epoll, listening.fd);
            }
        }
    }

    fn accept_again(&mut self) {
        if !self.accepting && !self.choked && self.resume_at == 0 {
            self.accepting = true;
            for listening in self.listening.values() {
                watch_listener(self.epoll, listening.fd, listening.listener);
            }
        }
    }

    // Places.

    fn new_flow(&mut self, fd: i32, listener: u32, party: usize) -> u32 {
        let place = match self.free_flows.pop() {
            Some(place) => place,
            None => {
                self.flows.push(Flow {
                    generation: 0,
                    state: State::Free,
                    listener: 0,
                    party: 0,
                    client: Side::new(crate::side::NONE),
                    unread: Vec::new(),
                    grant: None,
                    upstream: None,
                    dial: None,
                    deadline: 0,
                    timer: 0,
                    last_byte: 0,
                });
                self.flows.len() as u32 - 1
            }
        };
        let flow = &mut self.flows[place as usize];
        flow.state = State::Head;
        flow.listener = listener;
        flow.party = party;
        flow.client = Side::new(fd);
        place
    }

    /// Whatever it held has to be closed, or handed over, before.
    pub fn free_flow(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        flow.generation = (flow.generation + 1) & GENERATIONS;
        flow.state = State::Free;
        flow.client = Side::new(crate::side::NONE);
        flow.unread = Vec::new();
        flow.grant = None;
        flow.upstream = None;
        flow.dial = None;
        flow.deadline = 0;
        flow.timer = 0;
        self.free_flows.push(place);
    }

    /// A place for a connection to an upstream; None when it cannot be watched (the socket is closed then).
    pub fn new_link(&mut self, fd: i32, flow: u32, connected: bool) -> Option<u32> {
        let place = match self.free_links.pop() {
            Some(place) => place,
            None => {
                self.links.push(Link { generation: 0, flow, connected, side: Side::new(crate::side::NONE) });
                self.links.len() as u32 - 1
            }
        };
        let link = &mut self.links[place as usize];
        link.flow = flow;
        link.connected = connected;
        link.side = Side::new(fd);
        if !sys::watch(self.epoll, fd, SOCKET, token(link.generation, place, true)) {
            self.drop_link(place, false);
            return None;
        }
        Some(place)
    }

    pub fn drop_link(&mut self, place: u32, hard: bool) {
        let link = &mut self.links[place as usize];
        link.side.close(hard, &mut self.pipes);
        self.forget_link(place);
    }

    /// Its socket is closed, or somebody else's.
    pub fn forget_link(&mut self, place: u32) {
        let link = &mut self.links[place as usize];
        link.generation = (link.generation + 1) & GENERATIONS;
        link.side = Side::new(crate::side::NONE);
        self.free_links.push(place);
    }

    // Orders.

    fn carry_out(&mut self) {
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

fn watch_listener(epoll: i32, fd: i32, listener: u32) {
    sys::watch(epoll, fd, sys::IN | sys::EXCLUSIVE, token(LISTENER, listener, false));
}
