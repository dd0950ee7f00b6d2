"""How the benchmark drives a peer: one step per line on stdin, its milliseconds on stdout.

Engine and peer thus take turns step by step under the same load. At the end of stdin one JSON
line follows: {"times_ms": [...], "peak_mib": ..., "base_mib": ...}.
"""

import json
import sys
import time


def status_mib(key):
    """A line of /proc/self/status: VmRSS, or VmHWM, the highest VmRSS so far."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def serve(step, base_mib, steps):
    """Runs `step` once per line of stdin, or `steps` times when that is given."""
    times = []
    for _ in sys.stdin if steps is None else range(steps):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
        if steps is None:
            print(f"{times[-1]:.3f}", flush=True)
    print(json.dumps({"times_ms": times, "peak_mib": status_mib("VmHWM"), "base_mib": base_mib}), flush=True)
