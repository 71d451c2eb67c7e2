//! What goes on record: finished JSON lines for the audit log, and the numbers of the histograms.
#![forbid(unsafe_code)]

use crate::verdict::{Verdict, ID};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

const HOUR: u64 = 3_600_000_000;
const MAX_PATH: usize = 1024;

/// How many decisions, when the first and the last (microseconds since the epoch).
pub struct Calls {
    pub count: u64,
    pub first: u64,
    pub last: u64,
}

#[derive(Default)]
pub struct Waiting {
    /// One JSON text a line, as the log stores it.
    pub text: Vec<u8>,
    pub entries: usize,
    /// By verdict and hour, and by what was asked for (method and path of a plain request, else nothing).
    pub calls: HashMap<(u32, u64), HashMap<Vec<u8>, Calls>>,
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

    /// Whether there are so many that heads have to wait.
    pub fn decided(&self, verdict: &Verdict, id: &[u8; ID], wall: u64, asked: &Asked<'_>) -> bool {
        let mut waiting = self.lock();
        let (text, entry) = (&mut waiting.text, &verdict.entry);
        text.extend_from_slice(&entry[0]);
        seconds(text, wall);
        text.extend_from_slice(&entry[1]);
        hex(text, id);
        text.extend_from_slice(&entry[2]);
        let mut call = Vec::new();
        if entry.len() > 3 {
            quoted(text, asked.method);
            text.extend_from_slice(&entry[3]);
            quoted(text, asked.recorded_path());
            text.extend_from_slice(&entry[4]);
            call = [asked.method, asked.recorded_path()].join(&b' ');
        }
        text.push(b'\n');
        let calls = waiting.calls.entry((verdict.number, wall / HOUR)).or_default();
        let calls = calls.entry(call).or_insert(Calls { count: 0, first: wall, last: wall });
        calls.count += 1;
        calls.last = wall;
        self.added(waiting)
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

/// Buckets as prometheus_client counts them, which `telemetry/counts.py` carries on.
pub struct Spread {
    bounds: Vec<f64>,
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Spread {
    pub fn new(bounds: &[f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Spread { bounds: bounds.to_vec(), counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, microseconds: u64) {
        let seconds = microseconds as f64 / 1e6;
        self.counts[self.bounds.partition_point(|bound| *bound < seconds)].fetch_add(1, Relaxed);
        self.sum.fetch_add(microseconds, Relaxed);
    }

    /// The sum in microseconds, then the counts.
    pub fn values(&self) -> Vec<u64> {
        std::iter::once(&self.sum).chain(&self.counts).map(|value| value.load(Relaxed)).collect()
    }
}

/// As Python writes a float that has at most six decimals.
fn seconds(out: &mut Vec<u8>, microseconds: u64) {
    if (1..100).contains(&microseconds) {
        // Below a ten-thousandth it is mantissa and exponent.
        let (first, second) =
            if microseconds < 10 { (microseconds, 0) } else { (microseconds / 10, microseconds % 10) };
        number(out, first);
        if second > 0 {
            out.push(b'.');
            number(out, second);
        }
        return out.extend_from_slice(if microseconds < 10 { b"e-06" } else { b"e-05" });
    }
    number(out, microseconds / 1_000_000);
    out.push(b'.');
    let (mut rest, mut digit) = (microseconds % 1_000_000, 100_000);
    loop {
        out.push(b'0' + (rest / digit) as u8);
        rest %= digit;
        digit /= 10;
        if rest == 0 || digit == 0 {
            return;
        }
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(value.to_string().as_bytes());
}

/// Visible ASCII as a JSON string.
fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    for octet in text {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*octet);
    }
}

pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}
