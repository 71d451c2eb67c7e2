//! Counters in memory that Python has made and shares with the plane: `proxy/grants/` has `cells.py`, `budget.py` and
//! `connection_cap.py`.
//!
//! A row belongs to one side, which alone writes it; both read all rows. What "look and then take" needs beside that is
//! `Turn`, which Python takes through the ABI.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Sixty whole steps of a window and the one that has begun.
pub const PLACES: usize = 61;
/// Open flows, then two windows of stamps and amounts.
pub const ACCOUNT_WIDTH: usize = 1 + 4 * PLACES;
/// One window of stamps and amounts, where that of requests is in an account: of refusals.
pub const DENIALS_WIDTH: usize = 1 + 2 * PLACES;
const REQUESTS: usize = 1;
const BYTES: usize = 1 + 2 * PLACES;
const MINUTE: u64 = 60;

/// `rows` rows of `width` counters; the last row is the plane's.
#[derive(Clone, Copy)]
pub struct Cells {
    first: *const AtomicU64,
    width: usize,
    rows: usize,
}

// What it points to is atomics that Python keeps alive for as long as the plane runs.
unsafe impl Send for Cells {}
unsafe impl Sync for Cells {}

impl Cells {
    /// # Safety
    /// `first` points to `width * rows` aligned 64-bit integers that outlive every use.
    pub unsafe fn new(first: *const u64, width: usize, rows: usize) -> Self {
        Cells { first: first.cast(), width, rows }
    }

    fn all(&self) -> &[AtomicU64] {
        unsafe { std::slice::from_raw_parts(self.first, self.width * self.rows) }
    }

    fn own(&self, column: usize) -> &AtomicU64 {
        &self.all()[(self.rows - 1) * self.width + column]
    }

    pub fn has(&self, column: usize) -> bool {
        column < self.width
    }

    /// Over all rows.
    fn sum(&self, column: usize) -> u64 {
        let cells = self.all();
        (0..self.rows).map(|row| cells[row * self.width + column].load(SeqCst)).fold(0, u64::wrapping_add)
    }

    /// Takes one of `most` places; whether there was one. Counted first and looked at afterwards: two that race for the
    /// last place may both give it up, and never both take it.
    pub fn enter(&self, column: usize, most: u64) -> bool {
        self.own(column).fetch_add(1, SeqCst);
        if self.sum(column) > most {
            self.leave(column);
            return false;
        }
        true
    }

    pub fn add(&self, column: usize) {
        self.own(column).fetch_add(1, SeqCst);
    }

    /// Never below nothing: that would be more than any limit.
    pub fn leave(&self, column: usize) {
        let _ = self.own(column).fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1));
    }
}

#[derive(Clone, Copy)]
pub struct Limits {
    pub concurrent: Option<u64>,
    pub requests_per_minute: Option<u64>,
    pub bytes_per_hour: Option<u64>,
}

/// What one tool has in use: the cells of `budget._Account`.
#[derive(Clone, Copy)]
pub struct Account {
    pub cells: Cells,
}

impl Account {
    /// Counts one request and one open flow, unless the limits refuse them. `now` in microseconds.
    pub fn enter(&self, limits: &Limits, now: u64, turn: &Turn) -> bool {
        let second = now / 1_000_000;
        turn.take();
        let over = over(limits.concurrent, || self.cells.sum(0))
            || over(limits.requests_per_minute, || self.window(REQUESTS, second))
            || over(limits.bytes_per_hour, || self.window(BYTES, second / MINUTE));
        if !over {
            self.add(REQUESTS, second, 1);
            self.cells.own(0).fetch_add(1, SeqCst);
        }
        turn.give();
        !over
    }

    /// Counts one refusal, unless the limit of them is reached. `now` in microseconds.
    pub fn spend(&self, limits: &Limits, now: u64, turn: &Turn) -> bool {
        let second = now / 1_000_000;
        turn.take();
        let over = over(limits.requests_per_minute, || self.window(REQUESTS, second));
        if !over {
            self.add(REQUESTS, second, 1);
        }
        turn.give();
        !over
    }

    pub fn leave(&self) {
        self.cells.leave(0);
    }

    pub fn add_bytes(&self, count: u64, now: u64, turn: &Turn) {
        let minute = now / 1_000_000 / MINUTE;
        if self.cells.own(BYTES + minute as usize % PLACES).load(SeqCst) == minute {
            self.cells.own(BYTES + PLACES + minute as usize % PLACES).fetch_add(count, SeqCst);
            return;
        }
        turn.take();
        self.add(BYTES, minute, count);
        turn.give();
    }

    /// With the turn taken.
    fn add(&self, window: usize, step: u64, amount: u64) {
        let stamp = window + step as usize % PLACES;
        if self.cells.own(stamp).load(SeqCst) != step {
            self.cells.own(stamp + PLACES).store(0, SeqCst);
            self.cells.own(stamp).store(step, SeqCst);
        }
        self.cells.own(stamp + PLACES).fetch_add(amount, SeqCst);
    }

    fn window(&self, start: usize, step: u64) -> u64 {
        let oldest = (step + 1).saturating_sub(PLACES as u64);
        let (all, mut total) = (self.cells.all(), 0);
        for row in (0..self.cells.rows).map(|row| row * self.cells.width + start) {
            for place in row..row + PLACES {
                if all[place].load(SeqCst) >= oldest {
                    total += all[place + PLACES].load(SeqCst);
                }
            }
        }
        total
    }
}

fn over(limit: Option<u64>, used: impl FnOnce() -> u64) -> bool {
    limit.map_or(false, |limit| used() >= limit)
}

/// Held while somebody looks at a sum and takes: nobody takes in between. A lock that the two sides of the ABI take in
/// two calls, which no guard of the standard library survives; it is held for less than a microsecond.
#[derive(Default)]
pub struct Turn(AtomicBool);

impl Turn {
    pub fn take(&self) {
        let mut tries = 0u32;
        while self.0.swap(true, SeqCst) {
            tries += 1;
            if tries > 64 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    pub fn give(&self) {
        self.0.store(false, SeqCst);
    }
}
