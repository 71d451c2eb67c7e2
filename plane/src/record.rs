//! What goes on record: finished JSON lines for the audit log.
#![forbid(unsafe_code)]

use crate::gathered::{Exchange, Gathered, Refusals};
use crate::json::{hex, number, seconds};
use crate::locks::{Condvar, Mutex, MutexGuard};
use crate::verdict::{Verdict, ID};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const HOUR: u64 = 3_600_000_000;
const MAX_PATH: usize = 1024;
/// Bytes of a usual entry, with a bit to spare.
const ENTRY: usize = 640;

/// How many decisions, when the first and the last (microseconds since the epoch).
pub struct Calls {
    pub count: u64,
    pub first: u64,
    pub last: u64,
}

/// The place of a plain request among those that wait: its end becomes one entry with it, while it waits.
pub struct Slip {
    batch: u64,
    index: usize,
}

#[derive(Default)]
pub struct Waiting {
    /// Grows with each that is taken: by it a slip of an earlier one is known.
    batch: u64,
    /// One JSON text a line, as the log stores it.
    text: Vec<u8>,
    /// Each with the bytes of `text` that go before it.
    gathered: Vec<(usize, Gathered)>,
    /// Places in `gathered`, by the number of a verdict that refuses.
    refused: HashMap<u32, usize>,
    pub entries: usize,
    /// By verdict and hour, and by what was asked for (method and path of a plain request, else nothing).
    calls: AllCalls,
    /// Somebody waits until there are few.
    pub choked: bool,
}

pub struct Records {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    /// Entries that may wait for the disk; beyond it heads wait in their sockets. Nobody is refused for that.
    most: usize,
}

impl Records {
    pub fn new(most: usize) -> Self {
        Records { waiting: Mutex::new(Waiting::default()), filled: Condvar::new(), most }
    }

    pub fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A thread that died in here has at worst left a line without its count.
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes all there is, for the log.
    pub fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        let next = Waiting { batch: waiting.batch + 1, ..Waiting::default() };
        std::mem::replace(&mut *waiting, next)
    }

    /// Whether there are so many that heads have to wait; and where it waits, of a plain request.
    pub fn decided(&self, verdict: &Arc<Verdict>, id: &[u8; ID], wall: u64, asked: &Asked<'_>) -> (bool, Option<Slip>) {
        if verdict.plain.is_some() {
            let asked_for = [asked.method, asked.recorded_path()].join(&b' ');
            let (verdict, method_length) = (verdict.clone(), asked.method.len());
            let mut waiting = self.lock();
            let slip = Slip { batch: waiting.batch, index: waiting.gathered.len() };
            waiting.gather(Gathered::Exchange(Exchange {
                verdict,
                id: *id,
                wall,
                asked: asked_for,
                method_length,
                end: None,
            }));
            return (self.added(waiting), Some(slip));
        }
        let mut waiting = self.lock();
        let (text, entry) = (&mut waiting.text, &verdict.entry);
        text.extend_from_slice(&entry[0]);
        seconds(text, wall);
        text.extend_from_slice(&entry[1]);
        hex(text, id);
        text.extend_from_slice(&entry[2]);
        text.push(b'\n');
        count_calls(&mut waiting.calls, verdict.number, b"", Calls { count: 1, first: wall, last: wall });
        (self.added(waiting), None)
    }

    /// Puts on record that this verdict has refused once more. `id` is for the first one that waits; returns whether heads
    /// have to wait, and the id under which it is.
    pub fn refused(&self, verdict: &Arc<Verdict>, id: [u8; ID], wall: u64) -> (bool, [u8; ID]) {
        let mut waiting = self.lock();
        let place = waiting.refused.get(&verdict.number).copied();
        if let Some((_, Gathered::Refusals(refusals))) = place.and_then(|place| waiting.gathered.get_mut(place)) {
            return (false, refusals.add(wall));
        }
        let place = waiting.gathered.len();
        waiting.refused.insert(verdict.number, place);
        let refusals = Refusals { verdict: verdict.clone(), id, first: wall, last: wall, count: 1 };
        waiting.gather(Gathered::Refusals(refusals));
        (self.added(waiting), id)
    }

    /// As `ended`, of a plain request that was whole: one entry with its decision, while that waits.
    pub fn completed(&self, slip: &Slip, end: &End<'_>, suffix: &[u8]) {
        let mut waiting = self.lock();
        if waiting.batch == slip.batch {
            if let Some((_, Gathered::Exchange(exchange))) = waiting.gathered.get_mut(slip.index) {
                exchange.end = Some([end.wall, end.up, end.down, end.lasted]);
                return;
            }
        }
        drop(waiting);
        self.ended(end, suffix);
    }

    pub fn ended(&self, end: &End<'_>, suffix: &[u8]) {
        let mut waiting = self.lock();
        let text = &mut waiting.text;
        text.extend_from_slice(b"{\"at\":");
        seconds(text, end.wall);
        text.extend_from_slice(b",\"bytes_down\":");
        number(text, end.down);
        text.extend_from_slice(b",\"bytes_up\":");
        number(text, end.up);
        text.extend_from_slice(b",\"cause\":");
        text.extend_from_slice(end.cause.as_bytes());
        text.extend_from_slice(b",\"decision\":\"");
        hex(text, end.id);
        text.extend_from_slice(b"\",\"seconds\":");
        seconds(text, end.lasted);
        text.extend_from_slice(suffix);
        text.push(b'\n');
        self.added(waiting);
    }

    fn added(&self, mut waiting: MutexGuard<'_, Waiting>) -> bool {
        waiting.entries += 1;
        if waiting.entries == 1 {
            self.filled.notify_all();
        }
        waiting.choked |= waiting.entries > self.most;
        waiting.entries > self.most
    }

    /// Waits until there is something, for so long at most; how many entries there are.
    pub fn wait(&self, most: Duration) -> usize {
        let waited = self.filled.wait_timeout_while(self.lock(), most, |waiting| waiting.entries == 0);
        match waited {
            Ok((waiting, _)) => waiting.entries,
            Err(poisoned) => poisoned.into_inner().0.entries,
        }
    }
}

impl Waiting {
    fn gather(&mut self, one: Gathered) {
        self.gathered.push((self.text.len(), one));
    }

    /// The entries, one a line; and of each verdict, hour and request a line: verdict, count, first, last, method, path.
    pub fn written(mut self) -> (Vec<u8>, Vec<u8>) {
        let mut text = Vec::with_capacity(self.text.len() + ENTRY * self.gathered.len());
        let mut at = 0;
        for (behind, one) in &self.gathered {
            text.extend_from_slice(&self.text[at..*behind]);
            at = *behind;
            one.write(&mut text, &mut self.calls);
        }
        text.extend_from_slice(&self.text[at..]);
        let mut calls = Vec::new();
        for ((verdict, _), asked) in self.calls {
            for (what, Calls { count, first, last }) in asked {
                calls.extend_from_slice(format!("{verdict} {count} {first} {last} ").as_bytes());
                calls.extend_from_slice(&what);
                calls.push(b'\n');
            }
        }
        (text, calls)
    }
}

pub type AllCalls = HashMap<(u32, u64), HashMap<Vec<u8>, Calls>>;

pub fn count_calls(all: &mut AllCalls, verdict: u32, asked: &[u8], more: Calls) {
    let of_verdict = all.entry((verdict, more.first / HOUR)).or_default();
    match of_verdict.get_mut(asked) {
        Some(calls) => {
            calls.count += more.count;
            calls.last = calls.last.max(more.last);
        }
        None => {
            of_verdict.insert(asked.to_vec(), more);
        }
    }
}

/// What differs in the requests of one verdict; nothing of it does for a CONNECT.
#[derive(Default)]
pub struct Asked<'a> {
    pub method: &'a [u8],
    pub path: &'a [u8],
}

impl<'a> Asked<'a> {
    /// Without the query, which may hold a secret; bounded as in `proxy/enforce/record.py`.
    fn recorded_path(&self) -> &'a [u8] {
        let path = self.path.split(|octet| *octet == b'?').next().unwrap_or(b"");
        &path[..path.len().min(MAX_PATH)]
    }
}

pub struct End<'a> {
    pub id: &'a [u8; ID],
    /// Microseconds since the epoch.
    pub wall: u64,
    pub up: u64,
    pub down: u64,
    /// Microseconds.
    pub lasted: u64,
    /// A JSON string.
    pub cause: &'a str,
}
