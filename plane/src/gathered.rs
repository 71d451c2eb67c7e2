//! Entries that wait for something to be added to them: a plain request for its end, a refusal for others like it.
//!
//! `telemetry/combined.py` says what they look like, `proxy/plane/forms.py` makes the pieces that are the same each time.
#![forbid(unsafe_code)]

use crate::json::{hex, number, quoted, seconds};
use crate::record::{count_calls, AllCalls, Calls};
use crate::verdict::{Verdict, ID};
use std::sync::Arc;

pub enum Gathered {
    Exchange(Exchange),
    Refusals(Refusals),
}

/// The decision on a plain request, whose entry is written when it is taken: by then it may be over.
pub struct Exchange {
    pub verdict: Arc<Verdict>,
    pub id: [u8; ID],
    pub wall: u64,
    /// Method, a space, path without the query.
    pub asked: Vec<u8>,
    pub method_length: usize,
    /// When it ended (microseconds since the epoch), bytes up and down, how long it lasted.
    pub end: Option<[u64; 4]>,
}

/// Refused CONNECTs of one verdict, in a row.
pub struct Refusals {
    pub verdict: Arc<Verdict>,
    /// Id of the first one; those behind it count on from it.
    pub id: [u8; ID],
    pub first: u64,
    pub last: u64,
    pub count: u64,
}

impl Gathered {
    /// Writes the entry, and adds what it counts for.
    pub fn write(&self, text: &mut Vec<u8>, calls: &mut AllCalls) {
        match self {
            Gathered::Exchange(exchange) => {
                exchange.write(text);
                let one = Calls { count: 1, first: exchange.wall, last: exchange.wall };
                count_calls(calls, exchange.verdict.number, &exchange.asked, one);
            }
            Gathered::Refusals(refusals) => {
                refusals.write(text);
                let all = Calls { count: refusals.count, first: refusals.first, last: refusals.last };
                count_calls(calls, refusals.verdict.number, b"", all);
            }
        }
        text.push(b'\n');
    }
}

impl Exchange {
    /// Writes the entry: that of the decision, with the end in it where there is one (`telemetry/combined.py`).
    fn write(&self, text: &mut Vec<u8>) {
        let entry = &self.verdict.entry;
        text.extend_from_slice(&entry[0]);
        seconds(text, self.wall);
        if let Some([ended, up, down, _]) = self.end {
            text.extend_from_slice(b",\"bytes_down\":");
            number(text, down);
            text.extend_from_slice(b",\"bytes_up\":");
            number(text, up);
            text.extend_from_slice(b",\"cause\":\"closed\",\"ended\":");
            seconds(text, ended);
        }
        text.extend_from_slice(&entry[1]);
        hex(text, &self.id);
        text.extend_from_slice(&entry[2]);
        quoted(text, &self.asked[..self.method_length]);
        text.extend_from_slice(&entry[3]);
        quoted(text, &self.asked[self.method_length + 1..]);
        text.extend_from_slice(&entry[4]);
        if let Some([_, _, _, lasted]) = self.end {
            text.extend_from_slice(b"\"seconds\":");
            seconds(text, lasted);
            text.push(b',');
        }
        text.extend_from_slice(&entry[5]);
    }
}

impl Refusals {
    /// Counts one more; the id under which it is on record.
    pub fn add(&mut self, wall: u64) -> [u8; ID] {
        let id = repeated_id(&self.id, self.count);
        self.count += 1;
        self.last = self.last.max(wall);
        id
    }

    fn write(&self, text: &mut Vec<u8>) {
        let entry = &self.verdict.entry;
        text.extend_from_slice(&entry[0]);
        seconds(text, self.first);
        if self.count > 1 {
            text.extend_from_slice(b",\"count\":");
            number(text, self.count);
        }
        text.extend_from_slice(&entry[1]);
        hex(text, &self.id);
        text.extend_from_slice(&entry[2]);
        if self.count > 1 {
            text.extend_from_slice(b"\"last\":");
            seconds(text, self.last);
            text.push(b',');
        }
        text.extend_from_slice(&entry[3]);
    }
}

/// `combined.repeated_id`: the last four bytes count on.
fn repeated_id(first: &[u8; ID], number: u64) -> [u8; ID] {
    let mut id = *first;
    let (_, tail) = id.split_at_mut(ID - 4);
    let from = tail.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
    tail.copy_from_slice(&from.wrapping_add(number as u32).to_be_bytes());
    id
}
