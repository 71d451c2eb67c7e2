//! The native plane of the gate: the common case of a CONNECT, served without the interpreter.
//!
//! It runs as threads of the serving process and owns what it accepts. It serves only what a verdict that Python has
//! published covers word for word; every other connection goes to Python, descriptor and bytes, at a request boundary.
//! Python is the specification: nothing is refused here, and no answer but the 200 of a CONNECT is written.
//!
//! From below: `sys` calls the kernel, `cells` counts beside Python, `head`, `hello` and `front` read, `side` moves bytes,
//! `connect`, `dial`, `ask`, `tunnel` and `ending` are the life of one connection, `worker` the loop around it with its
//! `places` and `orders`, `shared` what the threads share, `abi` the door.

mod abi;
mod ask;
mod cells;
mod connect;
mod dial;
mod ending;
mod flow;
mod front;
mod head;
mod hello;
mod orders;
mod places;
mod record;
mod shared;
mod side;
mod sys;
mod tunnel;
mod verdict;
mod worker;
