//! The C ABI, called through ctypes, which lets go of the interpreter lock meanwhile where a call may wait for somebody.
//!
//! Python owns a plane from `plane_start` to `plane_free` and a verdict from `plane_publish` to `verdict_free`; it calls
//! nothing with a pointer behind that. Buffers belong to the caller and are only used during the call.

mod handed;
mod numbers;
mod plain_readers;
mod readers;
mod records;
mod verdicts;
mod version;

use crate::cells::Cells;
use crate::locks::Mutex;
use crate::post::Post;
use crate::record::Records;
use crate::shared::{Bounds, Order, Review, Room, Settings, Shared};
use crate::spread::Spread;
use crate::sys;
use crate::verdict::ID;
use crate::worker::Worker;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Rows of counters in one process: one is Python's own and one ours.
const ROWS: usize = 2;
const STACK: usize = 256 << 10;

#[repr(C)]
pub struct Config {
    threads: u64,
    head_timeout: u64,
    hello_timeout: u64,
    connect_timeout: u64,
    keep_alive_timeout: u64,
    idle_timeout: u64,
    max_head_bytes: u64,
    max_head_fields: u64,
    max_connections: u64,
    party_share: u64,
    queue: u64,
    connected: *const u64,
    parties: *const u64,
    parties_width: u64,
    /// Bounds of the histograms of connects, decisions and requests.
    bounds: [*const f64; 3],
    bounds_count: [u64; 3],
}

pub struct Plane {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Plane {
    /// Has every thread obey, and waits until all have.
    fn tell(&self, order: impl Fn() -> Order) {
        let shared = &self.shared;
        let sent: Vec<u64> = shared.posts.iter().map(|post| post.send(order())).collect();
        for post in &shared.posts {
            sys::ring(post.bell);
        }
        for (post, number) in shared.posts.iter().zip(sent) {
            post.finished(number, || shared.dead.load(SeqCst) || shared.running.load(SeqCst) == 0);
        }
    }
}

unsafe fn bytes<'a>(start: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(start, length)
    }
}

unsafe fn text(start: *const u8, length: usize) -> String {
    String::from_utf8_lossy(bytes(start, length)).into_owned()
}

unsafe fn numbers<'a>(start: *const f64, count: u64) -> &'a [f64] {
    std::slice::from_raw_parts(start, count as usize)
}

/// Null when no thread could be started.
#[no_mangle]
pub unsafe extern "C" fn plane_start(config: &Config) -> *const Plane {
    let threads = config.threads.max(1) as usize;
    let spread = |which: usize| Spread::new(numbers(config.bounds[which], config.bounds_count[which]));
    let shared = Arc::new(Shared {
        settings: Settings {
            head_timeout: config.head_timeout,
            hello_timeout: config.hello_timeout,
            connect_timeout: config.connect_timeout,
            keep_alive_timeout: config.keep_alive_timeout,
            idle_timeout: config.idle_timeout,
            max_head_bytes: config.max_head_bytes as usize,
            max_head_fields: config.max_head_fields as usize,
            max_connections: config.max_connections,
            party_share: config.party_share,
        },
        posts: (0..threads).map(|_| Post::new(sys::new_bell())).collect(),
        records: Records::new(config.queue as usize),
        turn: Default::default(),
        connected: Cells::new(config.connected, 1, ROWS),
        parties: Cells::new(config.parties, config.parties_width as usize, ROWS),
        contended: AtomicBool::new(false),
        suspended: AtomicBool::new(false),
        dead: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        running: AtomicI64::new(threads as i64),
        connections: AtomicI64::new(0),
        accepted: AtomicU64::new(0),
        handed_over: AtomicU64::new(0),
        connect_seconds: spread(0),
        decision_seconds: spread(1),
        request_seconds: spread(2),
        plain_seconds: spread(2),
        waits: Default::default(),
        handed: Mutex::new(VecDeque::new()),
        bell: sys::new_bell(),
    });
    let plane = Plane { shared, threads: Mutex::new(Vec::new()) };
    for number in 0..threads {
        let shared = plane.shared.clone();
        let thread = std::thread::Builder::new().name(format!("plane-{number}")).stack_size(STACK);
        match thread.spawn(move || serve(&shared, number)) {
            Ok(thread) => plane.lock_threads().push(thread),
            Err(_) => return std::ptr::null(),
        }
    }
    Box::into_raw(Box::new(plane))
}

impl Plane {
    fn lock_threads(&self) -> crate::locks::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One thread. A panic in it ends the plane: every thread lets go of what it has, and Python accepts again.
fn serve(shared: &Arc<Shared>, number: usize) {
    let mut worker = Worker::new(shared.clone(), number);
    let died = catch_unwind(AssertUnwindSafe(|| worker.run())).is_err();
    if died {
        shared.dead.store(true, SeqCst);
        for post in &shared.posts {
            sys::ring(post.bell);
        }
    }
    let cause = if shared.dead.load(SeqCst) { "\"internal_error\"" } else { "\"drained\"" };
    // A second panic, of a state that the first one has spoilt: the descriptors that are left end with the process.
    let _ = catch_unwind(AssertUnwindSafe(|| worker.abandon(cause)));
    shared.running.fetch_sub(1, SeqCst);
    sys::ring(shared.bell);
}

/// Ends the threads. What is on record stays to be taken, and so does what was handed over.
#[no_mangle]
pub extern "C" fn plane_stop(plane: &Plane) {
    plane.tell(|| Order::Stop);
    for thread in plane.lock_threads().drain(..) {
        let _ = thread.join();
    }
}

/// Behind `plane_stop`.
#[no_mangle]
pub unsafe extern "C" fn plane_free(plane: *mut Plane) {
    let plane = Box::from_raw(plane);
    for post in &plane.shared.posts {
        sys::shut(post.bell);
    }
    sys::shut(plane.shared.bell);
}

#[no_mangle]
pub extern "C" fn plane_bell(plane: &Plane) -> i32 {
    plane.shared.bell
}

#[no_mangle]
pub extern "C" fn plane_listen(plane: &Plane, fd: i32, listener: u32, party: usize) {
    plane.tell(|| Order::Listen { fd, listener, party });
}

#[no_mangle]
pub unsafe extern "C" fn plane_unlisten(plane: &Plane, listener: u32, cause: *const u8, length: usize) {
    let cause = text(cause, length);
    plane.tell(|| Order::Unlisten { listener, cause: cause.clone() });
}

#[no_mangle]
pub extern "C" fn plane_set_contended(plane: &Plane, contended: bool) {
    plane.shared.contended.store(contended, SeqCst);
}

#[no_mangle]
pub extern "C" fn plane_suspend(plane: &Plane, suspended: bool) {
    plane.shared.suspended.store(suspended, SeqCst);
    if suspended {
        // Nobody takes entries any more: the heads that wait for that are Python's to refuse.
        for post in &plane.shared.posts {
            post.send(Order::Breathe);
            sys::ring(post.bell);
        }
    }
}

#[no_mangle]
pub extern "C" fn plane_drain(plane: &Plane) {
    plane.shared.draining.store(true, SeqCst);
    plane.tell(|| Order::Drain);
}

#[no_mangle]
pub unsafe extern "C" fn plane_cut_all(plane: &Plane, cause: *const u8, length: usize) {
    let cause = text(cause, length);
    plane.tell(|| Order::CutAll { cause: cause.clone() });
}

#[no_mangle]
pub unsafe extern "C" fn plane_cut_flow(plane: &Plane, id: &[u8; ID], cause: *const u8, length: usize) {
    let (id, cause) = (*id, text(cause, length));
    plane.tell(|| Order::CutFlow { id, cause: cause.clone() });
}

/// `party` is a column, or one behind the last for all of them.
#[no_mangle]
pub extern "C" fn plane_make_room(plane: &Plane, party: usize, first: u64, further: u64, most: usize) {
    let party = if plane.shared.parties.has(party) { Some(party) } else { None };
    plane.tell(|| Order::MakeRoom(Room { party, first, further, most }));
}

#[no_mangle]
pub extern "C" fn plane_forget(plane: &Plane) {
    plane.tell(|| Order::Forget);
}

/// A line for the flows of each verdict, or for one flow alone: number or id, idle, lifetime (microseconds), and the cause
/// if they are to be cut.
#[no_mangle]
pub unsafe extern "C" fn plane_review(plane: &Plane, lines: *const u8, length: usize) {
    let mut review = Review::default();
    for line in text(lines, length).lines() {
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().unwrap_or("");
        let (whose, idle, lifetime) = (next(), next().parse(), next().parse());
        let bounds = match (idle, lifetime) {
            (Ok(idle), Ok(lifetime)) => Bounds { idle, lifetime, cause: next().to_owned() },
            _ => continue,
        };
        if let Some(id) = id_of(whose) {
            review.of_flow.insert(id, bounds);
        } else if let Ok(number) = whose.parse() {
            review.of_verdict.insert(number, bounds);
        }
    }
    let review = Arc::new(review);
    plane.tell(|| Order::Review(review.clone()));
}

/// Written as hexadecimal digits, of which a number has fewer.
fn id_of(text: &str) -> Option<[u8; ID]> {
    let mut id = [0; ID];
    if text.len() != 2 * ID {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

#[no_mangle]
pub extern "C" fn plane_panic(plane: &Plane) {
    let post = &plane.shared.posts[0];
    post.send(Order::Panic);
    sys::ring(post.bell);
}
