#!/usr/bin/env bash
# Races in the kernels, by ThreadSanitizer: every thread of a block is one of its fibers, ordered by
# __syncthreads and __syncwarp only (kernels/simt/README.md).
#
#   scripts/tsan.sh [RECORDINGS]
#
# RECORDINGS: a folder of launches that the tests recorded; by default the golden tests record here:
#   U2PL_SIMT_RECORD=FOLDER cargo test --features simt --test golden_gpu
# First the planted races must be reported and the correct kernels not; then every recorded launch
# must be free of reports. JOBS and CXX are heeded.
set -euo pipefail
cd "$(dirname "$0")/.."
cxx=${CXX:-g++}
jobs=${JOBS:-$(nproc)}
out=$PWD/target/tsan
mkdir -p "$out"

echo "tsan: building"
common=(-std=c++17 -O1 -g -pthread -fno-strict-aliasing -ffp-contract=off -DU2PL_SIMT -DSIMT_TSAN
        -Ikernels -w)
{
  # The runtime is not instrumented: it works for other fibers all the time.
  for source in kernels/simt/*.cpp; do
    echo "$source $out/$(basename "$source").o"
  done
  for source in kernels/*.cu kernels/simt/tests/*.cu; do
    echo "$source $out/$(basename "$source").o -fsanitize=thread"
  done
} | xargs -P "$jobs" -L 1 sh -c '
  source=$1 object=$2; shift 2
  set -- '"$(printf '%q ' "$cxx" "${common[@]}")"' "$@" -xc++ -c "$source" -o "$object"
  # Rebuilt when any kernel source is newer.
  [ -e "$object" ] && [ -z "$(find kernels -newer "$object" -name "*.[ch]*")" ] || "$@"
' build
"$cxx" -fsanitize=thread -pthread "$out"/*.o -ldl -o "$out/replay"

# TSan wants the address-space layout of old kernels.
replay=(setarch "$(uname -m)" -R env TSAN_OPTIONS="exitcode=66 halt_on_error=0 report_bugs=1"
        "$out/replay")
runs() { # runs EXPECTED-STATUS NAME ARGUMENTS...: complains about another status
  local expected=$1 name=$2 status=0
  shift 2
  "${replay[@]}" "$@" >"$out/$name.log" 2>&1 || status=$?
  [ "$status" = "$expected" ] && return 0
  echo "tsan: $name: exit status $status, not $expected"
  grep -m 3 -A 12 "WARNING: ThreadSanitizer" "$out/$name.log" || tail -5 "$out/$name.log"
  return 1
}

failed=0
for kernel in row_sums staged_copy neighbours; do
  runs 0 "planted_$kernel" --planted "planted_$kernel" && echo "tsan: $kernel: clean" || failed=1
done
for kernel in no_trailing_barrier no_barrier_after_wait no_syncwarp block_order; do
  runs 66 "planted_$kernel" --planted "planted_$kernel" && echo "tsan: $kernel: race reported" ||
    failed=1
done

recordings=${1:-}
if [ -z "$recordings" ]; then
  recordings=$out/recordings
  rm -rf "$recordings"
  mkdir -p "$recordings"
  U2PL_SIMT_RECORD=$recordings cargo test -q --features simt --test golden_gpu || true
fi
clean=0
for file in "$recordings"/*.launch; do
  if runs 0 "$(basename "$file" .launch)" "$file"; then clean=$((clean + 1)); else failed=1; fi
done
echo "tsan: $clean recorded launches of $(ls "$recordings" | sed 's/\..*//' | sort -u | wc -l) kernels clean"
exit $failed
