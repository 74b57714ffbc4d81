#!/usr/bin/env bash
# Usage: wide_functions.sh OBJECT
# Fails where a function of OBJECT, compiled for any x86-64, has wider instructions than that and is none
# of the kernels that are chosen at run time: the program would end on a machine without them, and so
# would one that takes an inline function of it.
set -euo pipefail
# Names are mangled: demangling takes longer than all the rest.
wide=$(objdump --disassemble --no-show-raw-insn "$1" |
  awk '/^[0-9a-f]+ <.*>:$/ { name = $0 } /%[yz]mm|\tv[a-z]/ { print name }' | sort -u)
kernels=$(grep -c -E simd[0-9]+Avx <<<"$wide" || true)
others=$(grep -v -E simd[0-9]+Avx <<<"$wide" || true)
if [[ -n $others ]]; then
  echo "wide instructions outside the kernels: $others" >&2
  exit 1
fi
((kernels > 0)) || { echo "$1 has no kernels" >&2; exit 1; }
echo "$kernels kernels"
