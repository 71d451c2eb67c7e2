#!/bin/sh
# The native plane under load with AddressSanitizer and ThreadSanitizer. Usage: plane/load/sanitize.sh SECONDS
#
# They are no stable part of rustc, which has them all the same: RUSTC_BOOTSTRAP=1 turns them on where its sysroot has the
# runtimes (that of rustup has, Debian's has not: there valgrind's memcheck looks, and no races are looked for).
#
# ThreadSanitizer has to see every lock, and those of the standard library are futexes in code that is not rebuilt for it
# (-Zbuild-std needs the library's source). So the plane is built with locks of pthread (`pthread.rs`), which it knows;
# the atomics are compiled into the plane and seen as they are. What is left, the fence at the end of an Arc, is named in
# `tsan.supp`. That the rest is seen is shown by a build whose locks lock nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:-10}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# build NAME OPTION...: the options are for both, those of the plane alone in $plane.
build() {
  mkdir "$out/$1" && to=$out/$1 && shift
  # shellcheck disable=SC2086
  rustc --edition 2021 -O -g --crate-type rlib --crate-name cloned_plane "$@" ${plane:-} --out-dir "$to" "$here/../src/lib.rs"
  rustc --edition 2021 -O -g "$@" -L "$to" --crate-name load -o "$to/load" "$here/main.rs"
}
runtimes=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/lib
if ! ls "$runtimes"/*asan* >/dev/null 2>&1; then
  command -v valgrind >/dev/null || { echo "neither the sanitizers nor valgrind: apt-get install valgrind" >&2; exit 2; }
  echo "memcheck:"
  build memcheck
  valgrind --quiet --error-exitcode=1 "$out/memcheck/load" "$seconds"
  echo "races: not looked for; that needs the rustc of rustup"
  exit 0
fi
export RUSTC_BOOTSTRAP=1
echo "AddressSanitizer:"
build asan -Zsanitizer=address
"$out/asan/load" "$seconds"
# Newer ones ask whether the rest, which is not rebuilt, may be of another kind.
mixed=-Cunsafe-allow-abi-mismatch=sanitizer
rustc $mixed --print sysroot >/dev/null 2>&1 || mixed=
echo "ThreadSanitizer:"
export TSAN_OPTIONS="history_size=4 suppressions=$here/tsan.supp"
plane='--cfg feature="pthread"' build tsan -Zsanitizer=thread $mixed
"$out/tsan/load" "$seconds"
echo "ThreadSanitizer, with locks that lock nothing:"
plane='--cfg feature="pthread" --cfg feature="unlocked"' build unlocked -Zsanitizer=thread $mixed
if TSAN_OPTIONS="$TSAN_OPTIONS halt_on_error=1" timeout 60 "$out/unlocked/load" 5 >"$out/said" 2>&1 || ! grep -q "data race" "$out/said"; then
  echo "it does not see the races of a plane without locks" >&2
  exit 1
fi
echo "seen"
