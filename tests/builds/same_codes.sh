#!/usr/bin/env bash
# Usage: same_codes.sh PROGRAM...
# Succeeds if all programs, builds of program.cpp, save the same bytes with every instruction set that
# this machine has.
set -euo pipefail
expected=
for program; do
  for set in "" portable sse4 avx2 neon; do
    if ! output=$(SQUAT_SIMD=$set "$program" 2>&1); then
      [[ $output == *"SQUAT_SIMD is '$set'"* ]] && continue  # it lacks the set
      echo "$program with SQUAT_SIMD='$set' fails: $output" >&2
      exit 1
    fi
    hashes=$(cut -d' ' -f1,2 <<<"$output")
    expected=${expected:-$hashes}
    if [[ $hashes != "$expected" ]]; then
      echo "$program with SQUAT_SIMD='$set' saves other bytes:" >&2
      diff <(echo "$expected") <(echo "$hashes") >&2
      exit 1
    fi
  done
done
echo "$expected"
