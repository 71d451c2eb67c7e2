//! The places of flows and links in their tables: taken, and given back for the next one.
#![forbid(unsafe_code)]

use crate::flow::{Flow, Link, State};
use crate::side::{Side, NONE};
use crate::sys;
use crate::worker::{token, Worker, SOCKET};
use std::net::SocketAddr;

const GENERATIONS: u32 = 0x7fff_ffff;

impl Worker {
    pub fn new_flow(&mut self, fd: i32, listener: u32, party: usize) -> u32 {
        let place = match self.free_flows.pop() {
            Some(place) => place,
            None => {
                self.flows.push(Flow {
                    generation: 0,
                    state: State::Free,
                    listener: 0,
                    party: 0,
                    client: Side::new(NONE),
                    unread: Vec::new(),
                    grant: None,
                    upstream: None,
                    dial: None,
                    exchange: None,
                    served: false,
                    asked: None,
                    deadline: 0,
                    timer: 0,
                    last_byte: 0,
                    left: (0, 0),
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
        flow.client = Side::new(NONE);
        flow.unread = Vec::new();
        flow.grant = None;
        flow.upstream = None;
        flow.dial = None;
        flow.exchange = None;
        flow.served = false;
        flow.asked = None;
        flow.last_byte = 0;
        flow.left = (0, 0);
        flow.deadline = 0;
        flow.timer = 0;
        self.free_flows.push(place);
    }

    /// A place for a connection to an upstream; None when it cannot be watched (the socket is closed then).
    pub fn new_link(&mut self, fd: i32, flow: u32, connected: bool, address: SocketAddr) -> Option<u32> {
        let place = match self.free_links.pop() {
            Some(place) => place,
            None => {
                let side = Side::new(NONE);
                self.links.push(Link { generation: 0, flow, address, idle_since: 0, pool: 0, connected, side });
                self.links.len() as u32 - 1
            }
        };
        let link = &mut self.links[place as usize];
        link.flow = flow;
        link.address = address;
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

    /// Frees the place of an upstream whose socket is closed, or somebody else's.
    pub fn forget_link(&mut self, place: u32) {
        let link = &mut self.links[place as usize];
        link.generation = (link.generation + 1) & GENERATIONS;
        link.side = Side::new(NONE);
        self.free_links.push(place);
    }
}
