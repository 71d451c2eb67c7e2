//! The proxy in front, between its connection and the 200 of the client: asked for the target, and its answer read.
//!
//! The answer is looked at before it is taken: where it is no plain success, Python gets the connection as it was asked.
#![forbid(unsafe_code)]

use crate::flow::State;
use crate::front;
use crate::shared::Stage;
use crate::sys::Io;
use crate::worker::Worker;

impl Worker {
    /// `deadline` is that of the whole way.
    pub fn ask_front(&mut self, place: u32, deadline: u64) {
        self.arm(place, deadline);
        let flow = &mut self.flows[place as usize];
        flow.state = State::Ask;
        let (link, grant) = match (flow.upstream, &flow.grant) {
            (Some(link), Some(grant)) => (link, grant),
            _ => return,
        };
        let side = &mut self.links[link as usize].side;
        // The first bytes of a connection: less than any send buffer, so that they go at once or never.
        if !side.write(&grant.verdict.request) || !side.drained() {
            flow.upstream = None;
            self.drop_link(link, false);
            self.give_back_unread(place, Stage::Unreachable);
        }
    }

    pub fn read_front(&mut self, place: u32) {
        let (link, needs_hello) = match (self.flows[place as usize].upstream, &self.flows[place as usize].grant) {
            (Some(link), Some(grant)) => (link as usize, grant.verdict.needs_hello),
            _ => return,
        };
        let settings = &self.shared.settings;
        let side = &mut self.links[link].side;
        if !side.readable {
            return;
        }
        match side.peek(&mut self.buffer) {
            Io::Again => {}
            Io::Moved(count) => {
                let data = &self.buffer[..count];
                match front::success(data, settings.max_head_bytes, settings.max_head_fields) {
                    // Behind it nothing may be there yet where the client speaks first.
                    Some(length) if (length == count || !needs_hello) && side.skip(&mut self.buffer[..length]) => {
                        side.readable |= length < count;
                        self.opened(place);
                    }
                    _ => self.give_back_unread(place, Stage::Asked),
                }
            }
            Io::End | Io::Failed => self.give_back_unread(place, Stage::Asked),
        }
    }

    fn opened(&mut self, place: u32) {
        let since = self.flows[place as usize].deadline.saturating_sub(self.shared.settings.connect_timeout);
        self.shared.connect_seconds.observe(self.now.saturating_sub(since));
        self.establish(place);
    }
}
