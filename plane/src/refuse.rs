//! CONNECTs that Python has refused before, told the same again: `known_refusals.py` and `refusing.py` are the specification.
//!
//! A verdict of them is for a whole head, byte for byte, and lives for a second at most. Each call has its id, counts
//! against the budget of its caller, and is on record before it is told.
#![forbid(unsafe_code)]

use crate::json::hex;
use crate::shared::Stage;
use crate::sys;
use crate::verdict::Verdict;
use crate::worker::Worker;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

/// Which kind of key; no authority begins so.
const OF_HEAD: u8 = 3;
/// Bytes of a head that is known.
const LONGEST: usize = 4096;

impl Worker {
    /// What becomes of a CONNECT that is not granted here. `data` is all that the client has sent.
    pub fn refuse_or_hand_over(&mut self, place: u32, data: &[u8], began: u64) {
        if data.len() <= LONGEST {
            let mut key = self.key_of(place, &[OF_HEAD]);
            key.extend_from_slice(data);
            if let Some(verdict) = self.verdict_on(&key) {
                if self.refuse(place, &verdict, began) {
                    return;
                }
            }
        }
        let unknown = self.flows[place as usize].asked.is_none() && !self.shared.suspended.load(SeqCst);
        self.hand_over(place, if unknown { Stage::Unknown } else { Stage::Head }, data.to_vec());
    }

    /// False, with nothing on record, where Python has to: over its budget a caller waits for its turn.
    fn refuse(&mut self, place: u32, verdict: &Arc<Verdict>, began: u64) -> bool {
        let id = match self.new_id() {
            Some(id) if verdict.account.spend(&verdict.limits, self.now, &self.shared.turn) => id,
            _ => return false,
        };
        let (choked, id) = self.shared.records.refused(verdict, id, sys::wall());
        verdict.counts.granted.fetch_add(1, SeqCst);
        *verdict.counts.last_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = id;
        verdict.counts.have_changed();
        if choked {
            self.choke();
        }
        self.shared.decision_seconds.observe(sys::monotonic() - began);
        let mut answer = Vec::with_capacity(1024);
        for (number, piece) in verdict.refusal.iter().enumerate() {
            if number > 0 {
                hex(&mut answer, &id);
            }
            answer.extend_from_slice(piece);
        }
        if self.flows[place as usize].client.write(&answer) {
            self.begin_linger(place);
        } else {
            self.end(place, "", true);
        }
        true
    }
}
