"""How `u2pl-engine bench` drives a side, without PyTorch: a peer may have none in its process.

A side is a process that answers each line of stdin with one line of stdout, both JSON:

    (started)               {"ready": {...}}            or {"error": "...", "mend": "..."} and exit,
                                                        or {"unavailable": "..."} and exit
    {"case": {...}}         {"ready": {...}}            or {"unavailable": "..."}; operations only
    {"run": k}              {"ms": t}                   t: milliseconds of each of k calls in a row
    {"check": true}         {"checked": {...}}          what both sides must agree on
    end of stdin            {"peak_mib": ..., "base_mib": ..., ...}

Engine and peer thus take turns under the same load. An error ends the whole comparison, a side
that is unavailable only its own part. Everything but these lines goes to stderr.
"""

import argparse
import json
import os
import sys

# The protocol's stdout; whatever a library prints must not end up between its lines.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def reply(value):
    print(json.dumps(value), file=replies, flush=True)


def fail(error, mend):
    """Ends this side and the comparison: the user has something to mend."""
    reply({"error": error, "mend": mend})
    sys.exit(2)


def unavailable(reason):
    """Ends this side; the others go on."""
    reply({"unavailable": reason})
    sys.exit(0)


def status_mib(key):
    """A line of /proc/self/status: VmRSS, or VmHWM, the highest VmRSS so far."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def parser(description):
    """The options of every peer."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: one per core")
    parser.add_argument("--steps", type=int, help="run this many and end, instead of reading stdin")
    return parser


def images(parser):
    """The options of inference: images and network."""
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--encoder", choices=["resnet50", "resnet101"], default="resnet50")
    return parser


def requests():
    """The driver's lines as values, until stdin ends."""
    for line in sys.stdin:
        yield json.loads(line)


def serve(ms, args, ready, last, check=None):
    """Answers until stdin ends, or runs `args.steps` times and prints the times. `ms(k)`:
    milliseconds of each of k calls; `last()`: the last words."""
    reply({"ready": ready})
    for request in requests() if args.steps is None else [{"run": 1}] * args.steps:
        if "run" in request:
            reply({"ms": ms(request["run"])})
        else:
            reply({"checked": check() if check else {}})
    reply(last())
