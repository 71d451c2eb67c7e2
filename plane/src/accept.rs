//! Accepting: while there are places, descriptors and a log that keeps up. Who comes meanwhile waits with the kernel.
#![forbid(unsafe_code)]

use crate::sys::{self, descriptors};
use crate::waits::Wait;
use crate::worker::{token, Worker, LISTENER, SOCKET};
use std::sync::atomic::Ordering::SeqCst;

const ACCEPT_AT_ONCE: usize = 64;
/// Microseconds until connections are accepted again after the process ran out of descriptors.
const PAUSE: u64 = 100_000;
/// Between two looks for a place, which another thread or Python may have given back.
const FULL: u64 = 20_000;

pub struct Listening {
    pub fd: i32,
    pub listener: u32,
    pub party: usize,
    /// No place was left for who came there: who else comes waits with the kernel.
    pub full: bool,
}

#[derive(Default)]
pub struct Pauses {
    /// The log is behind, or there are no descriptors: nobody is accepted anywhere.
    pub stopped: bool,
    /// When descriptors are tried again; 0: there are some.
    pub resume_at: u64,
    /// The last client that was accepted got one of the last descriptors.
    pub scarce: bool,
    /// When the listeners that are full are looked at again; 0: none is.
    pub places_at: u64,
}

impl Worker {
    pub fn listen(&mut self, fd: i32, listener: u32, party: usize) {
        sys::no_delay(fd); // what is accepted there has it, too
        self.listening.insert(listener, Listening { fd, listener, party, full: false });
        if !self.pauses.stopped {
            watch_listener(self.epoll, fd, listener);
        }
    }

    pub fn unlisten(&mut self, listener: u32) {
        if let Some(listening) = self.listening.remove(&listener) {
            if listening.full {
                self.shared.waits.end(Wait::Places);
            }
            if !self.pauses.stopped {
                sys::unwatch(self.epoll, listening.fd);
            }
        }
    }

    pub fn accept(&mut self, listener: u32) {
        let (fd, party) = match self.listening.get(&listener) {
            Some(listening) if !self.pauses.stopped => (listening.fd, listening.party),
            _ => return,
        };
        if self.pauses.scarce && descriptors::are_scarce(fd) {
            return self.wait_for_descriptors();
        }
        for _ in 0..ACCEPT_AT_ONCE {
            if !self.shared.admit(party) {
                return self.stop_at(listener);
            }
            match sys::accept(fd) {
                Ok(client) => {
                    self.pauses.scarce = descriptors::is_among_the_last(client);
                    self.welcome(client, listener, party);
                    if self.pauses.scarce {
                        return; // those who have come in need more of them
                    }
                }
                Err(error) => {
                    self.shared.leave(party);
                    if sys::OUT_OF_RESOURCES.contains(&error) {
                        self.wait_for_descriptors();
                    }
                    return;
                }
            }
        }
    }

    fn wait_for_descriptors(&mut self) {
        if self.pauses.resume_at == 0 {
            self.shared.waits.begin(Wait::Descriptors);
            self.pauses.resume_at = self.now + PAUSE;
            self.stop_accepting();
        }
    }

    fn welcome(&mut self, fd: i32, listener: u32, party: usize) {
        self.shared.accepted.fetch_add(1, SeqCst);
        self.shared.connections.fetch_add(1, SeqCst);
        let place = self.new_flow(fd, listener, party);
        self.watch_client(place, self.shared.settings.head_timeout);
    }

    pub fn watch_client(&mut self, place: u32, patience: u64) {
        let fd = self.flows[place as usize].client.fd;
        let whose = token(self.flows[place as usize].generation, place, false);
        if !sys::watch(self.epoll, fd, SOCKET, whose) {
            return self.end(place, "", true);
        }
        self.arm(place, self.now + patience);
    }

    /// Nobody is accepted there while all places are taken, or all that its party may have.
    fn stop_at(&mut self, listener: u32) {
        if let Some(listening) = self.listening.get_mut(&listener) {
            listening.full = true;
            sys::unwatch(self.epoll, listening.fd);
            self.pauses.places_at = self.now + FULL;
            if self.shared.waits.begin(Wait::Places) {
                sys::ring(self.shared.bell); // Python sees who may make room
            }
        }
    }

    /// A place is free: who waits for it is accepted in this turn.
    pub fn look_for_places(&mut self) {
        self.pauses.places_at = self.pauses.places_at.min(self.now);
    }

    /// What is due of this.
    pub fn end_pauses(&mut self) {
        if self.pauses.resume_at != 0 && self.now >= self.pauses.resume_at {
            self.pauses.resume_at = 0;
            self.shared.waits.end(Wait::Descriptors);
            self.accept_again();
        }
        if self.pauses.places_at != 0 && self.now >= self.pauses.places_at {
            self.pauses.places_at = 0;
            self.accept_where_full();
        }
    }

    fn accept_where_full(&mut self) {
        for listening in self.listening.values_mut().filter(|listening| listening.full) {
            listening.full = false;
            self.shared.waits.end(Wait::Places);
            if !self.pauses.stopped {
                watch_listener(self.epoll, listening.fd, listening.listener);
            }
        }
    }

    /// The log has more than it can write soon: heads wait in their sockets until it `breathes`.
    pub fn choke(&mut self) {
        if !self.choked {
            self.choked = true;
            self.shared.waits.begin(Wait::Log);
            self.stop_accepting();
        }
    }

    pub fn breathe(&mut self) {
        if self.choked {
            self.choked = false;
            self.shared.waits.end(Wait::Log);
            self.accept_again();
        }
        self.again.append(&mut self.parked);
    }

    fn stop_accepting(&mut self) {
        if !self.pauses.stopped {
            self.pauses.stopped = true;
            for listening in self.listening.values() {
                sys::unwatch(self.epoll, listening.fd);
            }
        }
    }

    fn accept_again(&mut self) {
        if self.pauses.stopped && !self.choked && self.pauses.resume_at == 0 {
            self.pauses.stopped = false;
            for listening in self.listening.values().filter(|listening| !listening.full) {
                watch_listener(self.epoll, listening.fd, listening.listener);
            }
        }
    }
}

fn watch_listener(epoll: i32, fd: i32, listener: u32) {
    sys::watch(epoll, fd, sys::IN | sys::EXCLUSIVE, token(LISTENER, listener, false));
}
