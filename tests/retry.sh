#!/usr/bin/env bash
# Usage: tests/retry.sh TIMES COMMAND... Run a pytest command. Where TIMES is above 0, tests that failed run again in a new
# process: a test can depend on what its process ran before, and then each repetition in the same process fails too.
set -uo pipefail
times=$1
shift
# pytest's exit code when tests failed. A run that ended for any other reason is not complete.
readonly failed=1

"$@"
status=$?
if [ "$status" -eq "$failed" ] && [ "$times" -gt 0 ]; then
  echo "Tests failed. They run again, in a new process."
  "$@" --last-failed --last-failed-no-failures none --maxfail 1
  status=$?
  [ "$status" -ne 0 ] || echo "All of them passed this time. Each test that the first summary lists as FAILED is a fault to fix." >&2
fi
exit "$status"
