//! The native plane of the gate: the common case of a CONNECT and of plain HTTP, served without the interpreter.
//!
//! It runs as threads of the serving process and owns what it accepts. It serves only what a verdict that Python has
//! published covers word for word; every other connection goes to Python, descriptor and bytes, at a request boundary.
//! Python is the specification: nothing is refused here but what Python has refused before, in its words, and no answer
//! of our own but the 200 of a CONNECT is written.
//!
//! From below: `sys` calls the kernel, `cells` counts beside Python, `head`, `request`, `response`, `body`, `hello` and
//! `front` read, `side` moves bytes, `record`, `gathered` and `json` write entries. `connect`, `refuse`, `dial`, `ask`,
//! `tunnel` and `ending` are the life of one tunnel, `plain`, `exchange`, `upload`, `download`, `linger` and `kept` that of
//! a plain request; `worker` is the loop around it with its `places` (in a `table`), whom it lets in (`accept`) and its `orders`,
//! `shared` what the threads share, `post` how they are told, `waits` for how long clients waited, `abi` the door.

mod abi;
mod accept;
mod ask;
mod body;
mod cells;
mod connect;
mod dial;
mod download;
mod ending;
mod exchange;
mod fields;
mod flow;
mod front;
mod gathered;
mod head;
mod hello;
mod json;
mod kept;
mod linger;
mod orders;
mod places;
mod plain;
mod post;
mod record;
mod refuse;
mod request;
mod response;
mod shared;
mod side;
mod spread;
mod stalled;
mod sys;
mod table;
mod tunnel;
mod upload;
mod verdict;
mod waits;
mod worker;

#[cfg(feature = "pthread")]
#[path = "../load/pthread.rs"]
mod locks;

/// Those of the standard library; `make sanitize` has others, whose use the sanitizers see.
#[cfg(not(feature = "pthread"))]
mod locks {
    pub use std::sync::{Condvar, Mutex, MutexGuard};
}
