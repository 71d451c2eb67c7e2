//! Whether the process has descriptors for one client more: the rule of `proxy/transport/descriptors.py`.

use super::shut;
use std::os::raw::{c_int, c_ulong};

#[repr(C)]
struct Limits {
    soft: c_ulong,
    hard: c_ulong,
}

extern "C" {
    fn getrlimit(resource: c_int, limits: *mut Limits) -> c_int;
    fn dup(fd: c_int) -> c_int;
}

const RLIMIT_NOFILE: c_int = 7;
/// For those who have been accepted. Of a process that may have few, an eighth is kept.
const RESERVE: c_ulong = 64;

/// Whether this one, the newest, is one of those that are kept: the lowest that is free is given out.
pub fn is_among_the_last(fd: i32) -> bool {
    let mut limits = Limits { soft: c_ulong::MAX, hard: c_ulong::MAX };
    let most = if unsafe { getrlimit(RLIMIT_NOFILE, &mut limits) } == 0 { limits.soft } else { c_ulong::MAX };
    fd as c_ulong >= most - RESERVE.min(most / 8)
}

/// Whether nobody should be accepted now. `fd` is any that is open.
pub fn are_scarce(fd: i32) -> bool {
    let newest = unsafe { dup(fd) };
    if newest < 0 {
        return true;
    }
    shut(newest);
    is_among_the_last(newest)
}
