//! The locks of the plane as those of pthread, for ThreadSanitizer and helgrind: `sanitize.sh` puts them into the place of
//! the standard library's, whose futexes neither sees. Same interface, as far as the plane uses it.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::os::raw::{c_int, c_long};
use std::sync::LockResult;
use std::time::Duration;

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

/// A build whose locks lock nothing: the sanitizer has to see that.
const UNLOCKED: bool = cfg!(feature = "unlocked");

/// Larger than any of pthread's, and zero: PTHREAD_MUTEX_INITIALIZER and PTHREAD_COND_INITIALIZER of Linux.
type Space = UnsafeCell<[u64; 16]>;

extern "C" {
    fn pthread_mutex_lock(mutex: *mut [u64; 16]) -> c_int;
    fn pthread_mutex_unlock(mutex: *mut [u64; 16]) -> c_int;
    fn pthread_cond_broadcast(condition: *mut [u64; 16]) -> c_int;
    fn pthread_cond_timedwait(condition: *mut [u64; 16], mutex: *mut [u64; 16], until: *const Timespec) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

pub struct Mutex<T> {
    lock: Box<Space>,
    value: UnsafeCell<T>,
}

unsafe impl<T: Send> Send for Mutex<T> {}
unsafe impl<T: Send> Sync for Mutex<T> {}

pub struct MutexGuard<'a, T>(&'a Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex { lock: Box::new(UnsafeCell::new([0; 16])), value: UnsafeCell::new(value) }
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if !UNLOCKED {
            unsafe { pthread_mutex_lock(self.lock.get()) };
        }
        Ok(MutexGuard(self))
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if !UNLOCKED {
            unsafe { pthread_mutex_unlock(self.0.lock.get()) };
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        unsafe { &mut *self.0.value.get() }
    }
}

pub struct Condvar(Box<Space>);

unsafe impl Send for Condvar {}
unsafe impl Sync for Condvar {}

impl Condvar {
    pub fn new() -> Self {
        Condvar(Box::new(UnsafeCell::new([0; 16])))
    }

    pub fn notify_all(&self) {
        unsafe { pthread_cond_broadcast(self.0.get()) };
    }

    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        most: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        if UNLOCKED {
            std::thread::sleep(most.min(Duration::from_millis(1)));
            return Ok((guard, true));
        }
        let mut until = Timespec { seconds: 0, nanoseconds: 0 };
        unsafe { clock_gettime(0, &mut until) };
        until.seconds += most.as_secs() as c_long;
        until.nanoseconds += most.subsec_nanos() as c_long;
        until.seconds += until.nanoseconds / 1_000_000_000;
        until.nanoseconds %= 1_000_000_000;
        let timed_out = unsafe { pthread_cond_timedwait(self.0.get(), guard.0.lock.get(), &until) } != 0;
        Ok((guard, timed_out))
    }

    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        most: Duration,
        mut holds: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        while holds(&mut guard) {
            let (again, timed_out) = match self.wait_timeout(guard, most) {
                Ok(waited) => waited,
                Err(poisoned) => poisoned.into_inner(),
            };
            guard = again;
            if timed_out {
                return Ok((guard, true));
            }
        }
        Ok((guard, false))
    }
}
