#!/bin/sh
# The suite in two passes: the tests that measure, one by one, then the others in several processes side by side.
#
#   tests/run.sh PYTHON [ARGUMENT OF PYTEST...]       JOBS: how many processes (default: three for each CPU)
set -eu

[ $# -ge 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
python=$1
shift
# Most tests wait for another program more than they compute: with three for each CPU, one computes while others wait.
jobs=${JOBS:-$(($(getconf _NPROCESSORS_ONLN) * 3))}
nothing_selected=5

# Images of containers often set it; each process of the suite would then compile every test again.
unset PYTHONDONTWRITEBYTECODE

# Where the tests start engines of their own, if they must; whatever ends them, the engines end with this script.
TEST_ENGINE=$(mktemp -d /tmp/cloned-engine.XXXXXX)
export TEST_ENGINE
stop_engines() {
  for engine in "$TEST_ENGINE"/*/; do
    [ ! -d "$engine" ] || "$(dirname "$0")/engine.sh" stop "$engine"
  done
  rm -rf "$TEST_ENGINE"
}
trap stop_engines EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The measuring ones first: nothing that the others leave behind is in their way, and the summary of most tests ends it.
together=0
alone=0
"$python" -m pytest --pass alone "$@" || alone=$?
[ $alone -ne 2 ] || exit 2 # interrupted
"$python" -m pytest --pass together --numprocesses "$jobs" --dist loadscope --no-loadscope-reorder "$@" || together=$?
if [ $together -eq $nothing_selected ]; then exit $alone; fi
if [ $together -eq 0 ] && [ $alone -ne $nothing_selected ]; then exit $alone; fi
exit $together
