//! The head of a request, and what is granted by it. At each boundary that is not plainly in order it goes to Python.
#![forbid(unsafe_code)]

use crate::flow::{Grant, State};
use crate::head;
use crate::plain::add_credentials;
use crate::record::Asked;
use crate::shared::Stage;
use crate::sys::{self, Io};
use crate::verdict::{Verdict, ID};
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

/// Random bytes that are drawn at once.
const DRAWN: usize = ID * 256;

impl Worker {
    pub fn read_head(&mut self, place: u32) {
        let flow = &mut self.flows[place as usize];
        if !flow.client.flush() {
            return self.end(place, "", true);
        }
        if !flow.client.drained() || (flow.unread.is_empty() && !flow.client.readable) {
            return;
        }
        if self.choked && !self.shared.suspended.load(SeqCst) {
            return self.park(place);
        }
        if !flow.unread.is_empty() {
            let data = std::mem::take(&mut flow.unread);
            return self.judge_head(place, &data);
        }
        match self.flows[place as usize].client.read(&mut self.buffer) {
            Io::Moved(count) => {
                let data = self.buffer[..count].to_vec(); // the steps behind it need the buffer
                self.buffer[..count].fill(0); // a credential is not to stay until so many bytes are read again
                self.judge_head(place, &data);
            }
            Io::Again => {}
            Io::End | Io::Failed => self.end(place, "", false),
        }
    }

    fn judge_head(&mut self, place: u32, data: &[u8]) {
        let began = sys::monotonic() - self.flows[place as usize].asked.unwrap_or(0);
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
            None => return self.refuse_or_hand_over(place, data, began),
        };
        let id = match self.new_id() {
            Some(id) if verdict.account.enter(&verdict.limits, self.now, &self.shared.turn) => id,
            _ => return self.hand_over(place, Stage::Head, data.to_vec()),
        };
        if !verdict.open() {
            verdict.account.leave();
            return self.hand_over(place, Stage::Head, data.to_vec());
        }
        self.grant(place, &verdict, id, began, &Asked::default());
        self.flows[place as usize].unread = data[head.length..].to_vec();
        self.begin_dial(place);
    }

    /// The one that is in force for this key, if there is one.
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

    /// Behind `Verdict::open`.
    pub fn grant(&mut self, place: u32, verdict: &Arc<Verdict>, id: [u8; ID], began: u64, asked: &Asked<'_>) {
        let now = sys::monotonic();
        let counts = &verdict.counts;
        counts.granted.fetch_add(1, SeqCst);
        *counts.last_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = id;
        counts.have_changed();
        let (choked, slip) = self.shared.records.decided(verdict, &id, sys::wall(), asked);
        if choked {
            self.choke();
        }
        self.shared.decision_seconds.observe(now - began);
        let verdict = verdict.clone();
        self.flows[place as usize].grant = Some(Grant { verdict, id, since: now, counted: 0, relaying: false, slip });
    }

    /// The flow's own deadline has come.
    pub fn timed_out(&mut self, place: u32) {
        let flow = &self.flows[place as usize];
        match flow.state {
            // What it has said waits for the log. One that does not even take the response before it waits for nobody.
            State::Head if flow.client.drained() && (flow.client.readable || !flow.unread.is_empty()) => {
                self.arm(place, self.now + self.shared.settings.head_timeout)
            }
            State::Head => self.end(place, "", false),
            State::Dial => match &flow.dial {
                Some(dial) if self.now < dial.deadline => self.try_next_address(place),
                _ => self.give_back_unread(place, Stage::Late),
            },
            State::Ask => self.give_back_unread(place, Stage::Asked),
            State::Hello => self.give_back_unread(place, Stage::Hello),
            State::Exchange => self.silent(place),
            // What the kernel has goes on its way; what it did not even take is given up.
            State::Linger => {
                let behind = !flow.client.drained();
                self.end(place, "", behind)
            }
            State::Free | State::Guard | State::Relay => {}
        }
    }
}
