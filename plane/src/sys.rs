//! System calls, by hand because the crate depends on nothing. With `cells` and `abi` the only unsafe code.
//!
//! Linux. Each function is one call; none keeps a pointer that it was given.

pub mod descriptors;
mod memory;

use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::raw::{c_int, c_long, c_ulong, c_void};

#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}

#[repr(C)]
struct SockaddrIn {
    family: u16,
    port: u16,
    address: [u8; 4],
    zero: [u8; 8],
}

#[repr(C)]
struct SockaddrIn6 {
    family: u16,
    port: u16,
    flow: u32,
    address: [u8; 16],
    scope: u32,
}

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

extern "C" {
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut EpollEvent) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut EpollEvent, most: c_int, milliseconds: c_int) -> c_int;
    fn accept4(fd: c_int, address: *mut c_void, length: *mut u32, flags: c_int) -> c_int;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const c_void, length: u32) -> c_int;
    fn recv(fd: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
    fn send(fd: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut u32) -> c_int;
    fn splice(from: c_int, at: *mut i64, to: c_int, to_at: *mut i64, length: usize, flags: u32) -> isize;
    fn pipe2(ends: *mut c_int, flags: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, value: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, value: *mut c_int) -> c_int;
    fn eventfd(value: u32, flags: c_int) -> c_int;
    fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize;
    fn write(fd: c_int, buffer: *const c_void, length: usize) -> isize;
    fn getrandom(buffer: *mut c_void, length: usize, flags: u32) -> isize;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

pub const IN: u32 = 0x1;
pub const OUT: u32 = 0x4;
pub const ERR: u32 = 0x8;
pub const HUP: u32 = 0x10;
pub const RDHUP: u32 = 0x2000;
pub const EXCLUSIVE: u32 = 1 << 28;
pub const EDGE: u32 = 1 << 31;

pub const EAGAIN: i32 = 11;
const EINTR: i32 = 4;
const EINPROGRESS: i32 = 115;
pub const ETIMEDOUT: i32 = 110;
pub const ENETUNREACH: i32 = 101;
/// ENFILE, EMFILE, ENOMEM, ENOBUFS: our own fault, not the upstream's.
pub const OUT_OF_RESOURCES: [i32; 4] = [23, 24, 12, 105];

const NONBLOCK_CLOEXEC: c_int = 0o2_004_000;
const MSG_PEEK: c_int = 2;
const MSG_NOSIGNAL: c_int = 0x4000;
const SOL_SOCKET: c_int = 1;
const SO_ERROR: c_int = 4;
const SO_LINGER: c_int = 13;
const IPPROTO_TCP: c_int = 6;
const TCP_NODELAY: c_int = 1;
const TCP_INFO: c_int = 11;
/// In 32-bit words: `tcpi_last_ack_recv` of `struct tcp_info`, milliseconds.
const LAST_ACK: usize = 14;
const SIOCOUTQ: c_ulong = 0x5411;
const F_SETPIPE_SZ: c_int = 1031;
const SPLICE_MOVE_NONBLOCK: u32 = 3;
pub const PIPE_BYTES: usize = 1 << 20;

/// What came of moving bytes.
pub enum Io {
    Moved(usize),
    Again,
    End,
    Failed,
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn outcome(result: isize, zero: Io) -> Io {
    match result {
        n if n > 0 => Io::Moved(n as usize),
        0 => zero,
        _ => match errno() {
            EAGAIN | EINTR => Io::Again,
            _ => Io::Failed,
        },
    }
}

pub fn new_epoll() -> i32 {
    unsafe { epoll_create1(0o2_000_000) }
}

pub fn watch(epoll: i32, fd: i32, events: u32, data: u64) -> bool {
    let mut event = EpollEvent { events, data };
    unsafe { epoll_ctl(epoll, 1, fd, &mut event) == 0 }
}

pub fn unwatch(epoll: i32, fd: i32) {
    unsafe { epoll_ctl(epoll, 2, fd, std::ptr::null_mut()) };
}

/// How many events there are.
pub fn wait(epoll: i32, events: &mut [EpollEvent], milliseconds: i32) -> usize {
    let found = unsafe { epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, milliseconds) };
    found.max(0) as usize
}

/// A connection, or the error number.
pub fn accept(fd: i32) -> Result<i32, i32> {
    let accepted = unsafe { accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), NONBLOCK_CLOEXEC) };
    if accepted >= 0 {
        return Ok(accepted);
    }
    Err(errno())
}

pub fn receive(fd: i32, buffer: &mut [u8]) -> Io {
    outcome(unsafe { recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) }, Io::End)
}

/// `receive`, after which everything is still there.
pub fn look(fd: i32, buffer: &mut [u8]) -> Io {
    outcome(unsafe { recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), MSG_PEEK) }, Io::End)
}

/// Whether there are bytes to be read.
pub fn has_more(fd: i32) -> bool {
    matches!(look(fd, &mut [0]), Io::Moved(_))
}

pub fn transmit(fd: i32, bytes: &[u8]) -> Io {
    if bytes.is_empty() {
        return Io::Moved(0);
    }
    outcome(unsafe { send(fd, bytes.as_ptr().cast(), bytes.len(), MSG_NOSIGNAL) }, Io::Again)
}

pub fn send_fin(fd: i32) {
    unsafe { shutdown(fd, 1) };
}

pub fn shut(fd: i32) {
    unsafe { close(fd) };
}

/// Closes and sends RST: the peer must not mistake a cut for the end of the data.
pub fn reset(fd: i32) {
    let linger: [c_int; 2] = [1, 0];
    unsafe { setsockopt(fd, SOL_SOCKET, SO_LINGER, linger.as_ptr().cast(), 8) };
    shut(fd);
}

/// Small pieces go at once; of a listening socket, those of every connection that is accepted there.
pub fn no_delay(fd: i32) {
    let on: c_int = 1;
    unsafe { setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, (&on as *const c_int).cast(), 4) };
}

/// The error that waits on a socket, 0 for none.
pub fn error_of(fd: i32) -> i32 {
    let (mut value, mut length): (c_int, u32) = (0, 4);
    unsafe { getsockopt(fd, SOL_SOCKET, SO_ERROR, (&mut value as *mut c_int).cast(), &mut length) };
    value
}

/// Bytes that were sent and that the peer's kernel has not acknowledged; of a Unix socket, that the peer has not read.
pub fn unsent(fd: i32) -> Option<usize> {
    let mut count: c_int = 0;
    let asked = unsafe { ioctl(fd, SIOCOUTQ, &mut count) };
    usize::try_from(count).ok().filter(|_| asked == 0)
}

/// Microseconds since the peer has last acknowledged anything; None where nobody keeps count: of a Unix socket.
pub fn since_acknowledged(fd: i32) -> Option<u64> {
    let mut info = [0u32; LAST_ACK + 1];
    let mut length = size_of::<[u32; LAST_ACK + 1]>() as u32;
    let asked = unsafe { getsockopt(fd, IPPROTO_TCP, TCP_INFO, info.as_mut_ptr().cast(), &mut length) };
    Some(u64::from(info[LAST_ACK]) * 1_000).filter(|_| asked == 0)
}

/// Begins to connect: the socket and whether it has connected already, or the error number.
pub fn dial(to: &SocketAddr) -> Result<(i32, bool), i32> {
    let fd = unsafe { socket(if to.is_ipv4() { 2 } else { 10 }, 1 | NONBLOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(errno());
    }
    no_delay(fd);
    let port = to.port().to_be();
    let result = match to.ip() {
        IpAddr::V4(ip) => {
            let place = SockaddrIn { family: 2, port, address: ip.octets(), zero: [0; 8] };
            unsafe { connect(fd, (&place as *const SockaddrIn).cast(), size_of::<SockaddrIn>() as u32) }
        }
        IpAddr::V6(ip) => {
            let place = SockaddrIn6 { family: 10, port, flow: 0, address: ip.octets(), scope: 0 };
            unsafe { connect(fd, (&place as *const SockaddrIn6).cast(), size_of::<SockaddrIn6>() as u32) }
        }
    };
    if result == 0 {
        return Ok((fd, true));
    }
    match errno() {
        EINPROGRESS => Ok((fd, false)),
        error => {
            shut(fd);
            Err(error)
        }
    }
}

pub fn splice_in(from: i32, pipe: i32) -> Io {
    let none = std::ptr::null_mut();
    outcome(unsafe { splice(from, none, pipe, none, PIPE_BYTES, SPLICE_MOVE_NONBLOCK) }, Io::End)
}

pub fn splice_out(pipe: i32, to: i32, length: usize) -> Io {
    let none = std::ptr::null_mut();
    outcome(unsafe { splice(pipe, none, to, none, length, SPLICE_MOVE_NONBLOCK) }, Io::Again)
}

/// The reading and the writing end.
pub fn new_pipe() -> Option<(i32, i32)> {
    let mut ends: [c_int; 2] = [0; 2];
    if unsafe { pipe2(ends.as_mut_ptr(), NONBLOCK_CLOEXEC) } != 0 {
        return None;
    }
    unsafe { fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES as c_int) };
    Some((ends[0], ends[1]))
}

pub fn new_bell() -> i32 {
    unsafe { eventfd(0, NONBLOCK_CLOEXEC) }
}

pub fn ring(bell: i32) {
    let one: u64 = 1;
    unsafe { write(bell, (&one as *const u64).cast(), 8) };
}

pub fn silence(bell: i32) {
    let mut value: u64 = 0;
    unsafe { read(bell, (&mut value as *mut u64).cast(), 8) };
}

/// Fills `bytes`; whether that worked. Without random numbers no decision gets an id.
pub fn random(bytes: &mut [u8]) -> bool {
    unsafe { getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) == bytes.len() as isize }
}

fn clock(number: c_int) -> u64 {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(number, &mut time) };
    time.seconds as u64 * 1_000_000 + time.nanoseconds as u64 / 1_000
}

/// Microseconds on the clock of Python's `time.monotonic`.
pub fn monotonic() -> u64 {
    clock(1)
}

/// Microseconds since the epoch.
pub fn wall() -> u64 {
    clock(0)
}
