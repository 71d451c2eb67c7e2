//! Who holds a place by not reading: of clients that are not served any more, those that take nothing of what waits.
#![forbid(unsafe_code)]

use crate::flow::State;
use crate::sys;
use crate::worker::Worker;

/// As `gate/room.py` has them: who takes less than so many bytes a second, looked at for so many microseconds.
const RATE: u64 = 8192;
const SECONDS: u64 = 2_000_000;
/// Python looks once a second while clients wait; a look that is older than this was for others who waited.
const FORGOTTEN: u64 = 5 * SECONDS;

impl Worker {
    /// Called while others wait for a place, about once a second.
    pub fn drop_stalled(&mut self, party: Option<usize>) {
        let now = sys::monotonic();
        for place in 0..self.flows.len() {
            let flow = &mut self.flows[place];
            let over = matches!(flow.state, State::Head | State::Linger);
            if !over || party.map_or(false, |party| flow.party != party) {
                continue;
            }
            let left = flow.client.unsent();
            let (then, since) = flow.left;
            let waited = now.saturating_sub(since);
            if left == 0 || left > then || waited > FORGOTTEN {
                flow.left = (left, now);
            } else if waited >= SECONDS {
                flow.left = (left, now);
                if (then - left) as u64 * 1_000_000 <= waited * RATE {
                    self.end(place as u32, "", true);
                }
            }
        }
    }
}
