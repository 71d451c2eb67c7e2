//! The memory of the plane: what it gives back holds nothing of what was in it.
//!
//! Heads with their credentials, and the keys of verdicts, are copied on their way like everything else. No copy can be
//! forgotten where all of them are wiped: when they are given back, and when they grow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::raw::c_void;

extern "C" {
    /// The C library's own, which no compiler may leave out.
    fn explicit_bzero(start: *mut c_void, length: usize);
}

struct Wiping;

#[global_allocator]
static WIPING: Wiping = Wiping;

// The system's own, to which each call goes on as it came. `realloc` is that of the trait: it allocates, copies and
// gives back through these.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        System.alloc_zeroed(layout)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        explicit_bzero(start.cast(), layout.size());
        System.dealloc(start, layout);
    }
}
