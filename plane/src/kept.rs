//! Connections to upstreams, kept for the next request of the same caller under the same rule (`http1/upstream.py`).
#![forbid(unsafe_code)]

use crate::flow::NOBODY;
use crate::sys::{self, Io};
use crate::verdict::Verdict;
use crate::worker::Worker;
use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

/// Microseconds for which an unused connection is kept.
const IDLE: u64 = 15_000_000;
/// Microseconds for which a request that may not be sent twice may take one (RFC 9112, section 9.3.1).
const JUST_USED: u64 = 500_000;
const SWEEP: u64 = 1_000_000;
/// Unused connections of each thread.
const MAX_IDLE: usize = 1024;
const MAX_IDLE_EACH: usize = 64;

#[derive(Default)]
pub struct Kept {
    /// By `Plain::pool`, the last one used at the end: the surplus ages out.
    idle: HashMap<u32, Vec<u32>>,
    count: usize,
    /// When verdicts and connections that are over are let go of. 0: there are none.
    pub sweep_at: u64,
}

impl Worker {
    /// One that this verdict permits to use.
    pub fn take_kept(&mut self, verdict: &Verdict, repeatable: bool) -> Option<u32> {
        let plain = verdict.plain.as_ref()?;
        let oldest = self.now.saturating_sub(if repeatable { IDLE } else { JUST_USED });
        let candidates: Vec<u32> = self.kept.idle.get(&plain.pool)?.iter().rev().copied().collect();
        for link in candidates {
            let kept = &self.links[link as usize];
            if kept.idle_since <= oldest {
                return None;
            }
            if !verdict.addresses.contains(&kept.address) {
                continue;
            }
            if self.is_quiet(link) {
                self.forget_kept(link);
                return Some(link);
            }
            self.drop_kept(link);
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub fn keep(&mut self, link: u32, pool: u32) {
        let siblings = self.kept.idle.get(&pool);
        let crowded = siblings.filter(|siblings| siblings.len() >= MAX_IDLE_EACH).and_then(|siblings| siblings.first());
        if let Some(oldest) = crowded.copied() {
            self.drop_kept(oldest);
        }
        if self.kept.count >= MAX_IDLE {
            return self.drop_link(link, false);
        }
        let now = self.now;
        let kept = &mut self.links[link as usize];
        kept.flow = NOBODY;
        kept.pool = pool;
        kept.idle_since = now;
        kept.side.bytes = 0;
        self.kept.idle.entry(pool).or_default().push(link);
        self.kept.count += 1;
        self.sweep_soon();
    }

    pub fn sweep_soon(&mut self) {
        if self.kept.sweep_at == 0 {
            self.kept.sweep_at = self.now + SWEEP;
        }
    }

    /// What it says now nobody has asked for: whoever got this connection next would take it for theirs.
    pub fn kept_moved(&mut self, link: u32) {
        if !self.is_quiet(link) {
            self.drop_kept(link);
        }
    }

    fn is_quiet(&mut self, link: u32) -> bool {
        let side = &mut self.links[link as usize].side;
        !side.readable || (!side.ending && matches!(side.read(&mut [0]), Io::Again))
    }

    /// Lets go of the connections that are too old, and of the verdicts that are not granted any more.
    pub fn sweep_kept(&mut self) {
        let now = self.now;
        self.verdicts.retain(|_, verdict| verdict.live.load(SeqCst) && now < verdict.expires);
        let oldest = self.now.saturating_sub(IDLE);
        let is_old = |link: &u32| self.links[*link as usize].idle_since <= oldest;
        let old: Vec<u32> = self.kept.idle.values().flatten().filter(|link| is_old(*link)).copied().collect();
        for link in old {
            self.drop_kept(link);
        }
        let none = self.kept.count == 0 && self.verdicts.is_empty();
        self.kept.sweep_at = if none { 0 } else { sys::monotonic() + SWEEP };
    }

    /// Nothing that was granted before is of use any more.
    pub fn close_kept(&mut self) {
        for link in std::mem::take(&mut self.kept.idle).into_values().flatten() {
            self.drop_link(link, true);
        }
        self.kept.count = 0;
    }

    fn drop_kept(&mut self, link: u32) {
        self.forget_kept(link);
        self.drop_link(link, true);
    }

    /// Takes a connection out of the kept ones; it stays open.
    fn forget_kept(&mut self, link: u32) {
        let pool = self.links[link as usize].pool;
        if let Some(siblings) = self.kept.idle.get_mut(&pool) {
            siblings.retain(|other| *other != link);
            self.kept.count -= 1;
            if siblings.is_empty() {
                self.kept.idle.remove(&pool);
            }
        }
    }
}
