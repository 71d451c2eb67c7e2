#!/bin/sh
# The native plane under load with AddressSanitizer. Usage: plane/load/sanitize.sh SECONDS
#
# It is no stable part of rustc, which has it all the same: RUSTC_BOOTSTRAP=1 turns it on where its sysroot has the
# runtime (that of rustup has, Debian's has not: there valgrind's memcheck looks).
#
# ThreadSanitizer is not run. It has to see the locks of the standard library, which would have to be built anew (-Zbuild-std,
# with the library's source and its crates): without, each contended Mutex is a report. helgrind does not see them either.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:-10}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
build() {
  rustc --edition 2021 -O -g --crate-type rlib --crate-name cloned_plane "$@" --out-dir "$out" "$here/../src/lib.rs"
  rustc --edition 2021 -O -g "$@" -L "$out" --crate-name load -o "$out/load" "$here/main.rs"
}
runtimes=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/lib
if ls "$runtimes"/*asan* >/dev/null 2>&1; then
  echo "AddressSanitizer:"
  export RUSTC_BOOTSTRAP=1
  build -Zsanitizer=address
  "$out/load" "$seconds"
else
  command -v valgrind >/dev/null || { echo "neither the sanitizer nor valgrind: apt-get install valgrind" >&2; exit 2; }
  echo "memcheck:"
  build
  valgrind --quiet --error-exitcode=1 "$out/load" "$seconds"
fi
