//! The way to an upstream: one of the addresses that were checked answers, or Python says that none does.
#![forbid(unsafe_code)]

use crate::flow::{Dial, State, NOBODY};
use crate::shared::Stage;
use crate::sys;
use crate::worker::Worker;

/// RFC 8305, section 5: microseconds between two attempts.
const ATTEMPT_DELAY: u64 = 250_000;

impl Worker {
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
    pub fn try_next_address(&mut self, place: u32) {
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
        let failed = events & (sys::ERR | sys::HUP) != 0;
        match if failed { sys::error_of(fd) } else { 0 } {
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
        let dial = match self.flows[place as usize].dial.take() {
            Some(dial) => dial,
            None => return,
        };
        for attempt in dial.attempts {
            if attempt != link {
                self.drop_link(attempt, false);
            }
        }
        self.flows[place as usize].upstream = Some(link);
        if self.flows[place as usize].grant.as_ref().map_or(false, |grant| !grant.verdict.request.is_empty()) {
            return self.ask_front(place, dial.deadline);
        }
        self.shared.connect_seconds.observe(self.now - dial.began);
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
}
