//! For how long clients had to wait, and for what: `telemetry/wait_metrics.py`.
#![forbid(unsafe_code)]

use crate::locks::{Mutex, MutexGuard};
use crate::sys;

/// What is waited for.
#[derive(Clone, Copy)]
pub enum Wait {
    /// A place: all are taken, or all that a party may have.
    Places = 0,
    /// A file descriptor.
    Descriptors = 1,
    /// The log.
    Log = 2,
}

pub const KINDS: usize = 3;

#[derive(Default)]
struct Span {
    /// How many threads or listeners wait now.
    waiting: usize,
    /// Microseconds: since when the first of them does, and how long it was before.
    since: u64,
    before: u64,
}

/// The waiting of all threads together: a second in which two of them wait is one second.
#[derive(Default)]
pub struct Waits {
    spans: Mutex<[Span; KINDS]>,
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, [Span; KINDS]> {
        self.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether nobody did before.
    pub fn begin(&self, what: Wait) -> bool {
        let span = &mut self.lock()[what as usize];
        span.waiting += 1;
        if span.waiting == 1 {
            span.since = sys::monotonic();
        }
        span.waiting == 1
    }

    pub fn end(&self, what: Wait) {
        let span = &mut self.lock()[what as usize];
        span.waiting = span.waiting.saturating_sub(1);
        if span.waiting == 0 {
            span.before += sys::monotonic().saturating_sub(span.since);
        }
    }

    /// Whether somebody waits for a place now, and the microseconds of each kind until now.
    pub fn told(&self) -> (bool, [u64; KINDS]) {
        let spans = self.lock();
        let now = sys::monotonic();
        let until_now = |span: &Span| span.before + if span.waiting > 0 { now.saturating_sub(span.since) } else { 0 };
        (spans[Wait::Places as usize].waiting > 0, [until_now(&spans[0]), until_now(&spans[1]), until_now(&spans[2])])
    }
}
