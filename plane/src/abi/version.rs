//! What Python compares before it calls anything else: a library of another build must not get its pointers.

use super::{
    handed::HandedOver,
    numbers::{SeenFlow, Snapshot},
    records::Batch,
    verdicts::{Publication, RefusalForm},
    Config,
};
use std::mem::size_of;

/// Goes up with each change of what passes this door that the size of no structure tells.
const FORM: usize = 11;

/// The form, then the sizes of the structures.
#[no_mangle]
pub extern "C" fn plane_abi(out: &mut [usize; 8]) {
    *out = [
        FORM,
        size_of::<Config>(),
        size_of::<Publication>(),
        size_of::<RefusalForm>(),
        size_of::<HandedOver>(),
        size_of::<SeenFlow>(),
        size_of::<Snapshot>(),
        size_of::<Batch>(),
    ];
}
