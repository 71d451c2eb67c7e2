//! One thread of the plane: an epoll (edge-triggered, each socket added once), its connections, and its orders.
#![forbid(unsafe_code)]

use crate::accept::{Listening, Pauses};
use crate::flow::{Flow, Link, State};
use crate::kept::Kept;
use crate::post::Post;
use crate::shared::Shared;
use crate::sys::{self, EpollEvent};
use crate::table::Table;
use crate::verdict::Verdict;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

const BUFFER: usize = 65_536;
const EVENTS: usize = 512;
pub const SOCKET: u32 = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
const BELL: u64 = u64::MAX;
/// In the place of a generation.
pub const LISTENER: u32 = u32::MAX;

pub struct Worker {
    pub shared: Arc<Shared>,
    number: usize,
    pub epoll: i32,
    pub flows: Table<Flow>,
    pub free_flows: Vec<u32>,
    pub links: Table<Link>,
    pub free_links: Vec<u32>,
    pub verdicts: HashMap<Vec<u8>, Arc<Verdict>>,
    pub listening: HashMap<u32, Listening>,
    pub pauses: Pauses,
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    /// Flows whose turn was over, and that have more.
    pub again: Vec<u64>,
    /// Heads that wait until the log has room.
    pub parked: Vec<u64>,
    pub choked: bool,
    pub buffer: Vec<u8>,
    pub pipes: Vec<(i32, i32)>,
    pub ids: Vec<u8>,
    pub kept: Kept,
    /// Monotonic microseconds, of this turn.
    pub now: u64,
    pub stopping: bool,
}

pub fn token(generation: u32, place: u32, upstream: bool) -> u64 {
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
            flows: Table::new(),
            free_flows: Vec::new(),
            links: Table::new(),
            free_links: Vec::new(),
            verdicts: HashMap::new(),
            listening: HashMap::new(),
            pauses: Pauses::default(),
            timers: BinaryHeap::new(),
            again: Vec::new(),
            parked: Vec::new(),
            choked: false,
            buffer: vec![0; BUFFER],
            pipes: Vec::new(),
            ids: Vec::new(),
            kept: Kept::default(),
            now: sys::monotonic(),
            stopping: false,
        }
    }

    pub fn post(&self) -> &Post {
        &self.shared.posts[self.number]
    }

    /// Until it is told to stop, or another thread of the plane has died.
    pub fn run(&mut self) {
        let mut events = [EpollEvent { events: 0, data: 0 }; EVENTS];
        while !self.stopping && !self.shared.dead.load(SeqCst) {
            let found = sys::wait(self.epoll, &mut events, self.patience());
            self.now = sys::monotonic();
            if self.post().take_waiting() {
                self.carry_out();
            }
            let again = std::mem::take(&mut self.again);
            // First who has moved, then what follows: no connection that is kept is taken while it has said something.
            for event in &events[..found] {
                self.mark(event.data, event.events);
            }
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
        let kept = if self.kept.sweep_at != 0 { self.kept.sweep_at } else { u64::MAX };
        let mut due = self.timers.peek().map_or(u64::MAX, |timer| timer.0 .0);
        for pause in [self.pauses.resume_at, self.pauses.places_at] {
            due = due.min(if pause != 0 { pause } else { u64::MAX });
        }
        let (due, now) = (due.min(kept), sys::monotonic());
        (due.saturating_sub(now).min(1_000_000) + 999) as i32 / 1000
    }

    fn mark(&mut self, whose: u64, what: u32) {
        let (generation, place) = ((whose >> 32) as u32, (whose as u32 >> 1) as usize);
        if whose == BELL || generation == LISTENER {
            return;
        }
        if whose & 1 == 1 {
            if let Some(link) = self.links.get_mut(place).filter(|link| link.generation == generation) {
                link.side.mark(what);
            }
        } else if let Some(flow) = self.flows.get_mut(place).filter(|flow| flow.generation == generation) {
            flow.client.mark(what);
        }
    }

    fn event(&mut self, whose: u64, what: u32) {
        if whose == BELL {
            self.post().silence();
            return self.carry_out();
        }
        let (generation, place, upstream) = ((whose >> 32) as u32, (whose as u32) >> 1, whose & 1 == 1);
        if generation == LISTENER {
            return self.accept(place);
        }
        if upstream {
            if self.links.get(place as usize).map_or(false, |link| link.generation == generation) {
                self.upstream_moved(place, what);
            }
        } else if self.flows.get(place as usize).map_or(false, |flow| flow.generation == generation) {
            self.progress(place);
        }
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
            State::Ask if self.flows[place as usize].client.hung_up => self.end(place, "\"client_reset\"", true),
            State::Ask => self.read_front(place),
            State::Hello => self.read_hello(place),
            State::Guard => self.read_answer(place),
            State::Relay => self.relay(place),
            State::Exchange => self.exchange(place),
            State::Linger => self.linger(place),
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
        self.end_pauses();
        if self.kept.sweep_at != 0 && self.now >= self.kept.sweep_at {
            self.sweep_kept();
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
}
