//! The orders of one thread, from Python: they wait in its inbox, and its bell wakes it for them.
#![forbid(unsafe_code)]

use crate::locks::{Condvar, Mutex, MutexGuard};
use crate::shared::Order;
use crate::sys;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

#[derive(Default)]
struct Inbox {
    orders: VecDeque<Order>,
    /// How many were ever posted, and carried out.
    posted: u64,
    done: u64,
    /// The thread has ended: nobody takes what comes now.
    closed: bool,
}

/// Orders that wait without waking anybody.
const MANY: usize = 256;

/// The orders of one thread.
pub struct Post {
    inbox: Mutex<Inbox>,
    carried_out: Condvar,
    /// Whether there are orders: a look at it costs a turn of the thread nothing.
    waiting: AtomicBool,
    /// Whether the bell has rung for those who need not ring it again.
    rung: AtomicBool,
    pub bell: i32,
}

impl Post {
    pub fn new(bell: i32) -> Self {
        Post {
            inbox: Mutex::new(Inbox::default()),
            carried_out: Condvar::new(),
            waiting: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            bell,
        }
    }

    /// Wakes the thread for what was sent, unless it is about to wake for what was sent before.
    pub fn ring_once(&self) {
        if !self.rung.swap(true, SeqCst) {
            sys::ring(self.bell);
        }
    }

    /// The thread is awake, and takes all that was sent until now.
    pub fn silence(&self) {
        sys::silence(self.bell);
        self.rung.store(false, SeqCst); // behind it: whose order was sent before needs no bell, who comes later rings
    }

    /// Whether there is something to `take`; what is sent behind this counts for the next time.
    pub fn take_waiting(&self) -> bool {
        self.waiting.load(SeqCst) && self.waiting.swap(false, SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The number of the order, for `finished`.
    pub fn send(&self, order: Order) -> u64 {
        let mut inbox = self.lock();
        inbox.orders.push_back(order);
        inbox.posted += 1;
        self.waiting.store(true, SeqCst);
        inbox.posted
    }

    /// As `send`, for an order that brings a connection along. False once the thread has ended: the connection is still
    /// the caller's.
    pub fn hand(&self, order: Order) -> bool {
        let mut inbox = self.lock();
        if inbox.closed {
            return false;
        }
        inbox.orders.push_back(order);
        inbox.posted += 1;
        self.waiting.store(true, SeqCst);
        true
    }

    /// For the end of the thread: what it has not obeyed. Nothing is handed to it behind this.
    pub fn close(&self) -> VecDeque<Order> {
        let mut inbox = self.lock();
        inbox.closed = true;
        std::mem::take(&mut inbox.orders)
    }

    /// Whether so many wait that its thread is to be woken for them.
    pub fn has_many(&self) -> bool {
        self.lock().orders.len() % MANY == 0
    }

    pub fn take(&self) -> Option<Order> {
        self.lock().orders.pop_front()
    }

    pub fn carried_out(&self) {
        self.lock().done += 1;
        self.carried_out.notify_all();
    }

    /// Waits until the order was carried out, or nobody is left to do it.
    pub fn finished(&self, number: u64, nobody_is_left: impl Fn() -> bool) {
        let mut inbox = self.lock();
        while inbox.done < number && !nobody_is_left() {
            let waited = self.carried_out.wait_timeout(inbox, Duration::from_millis(50));
            inbox = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}
