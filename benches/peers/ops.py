"""PyTorch peer of `u2pl-engine bench`: single operations, each as PyTorch does it best.

A case of the engine's table comes in as JSON (operation, attributes, shapes and types of its
operands); the peer makes operands of its own, on as many copies as the engine uses, so that no
cache holds them from call to call.
"""

import common  # first: it says what is missing
import torch
from operations import NoPeer, build


def prepare(request, args):
    """The case's copies, each run once; its timer."""
    case, copies = request["case"], request.get("copies", 1)
    calls = [build(case, args) for _ in range(copies)]
    for call in calls:
        call()
    at = 0

    def one():
        nonlocal at
        calls[at]()
        at = (at + 1) % copies

    return one


def answer(request, one, args):
    """Reply to one request, and what `run` runs from now on."""
    if "case" in request:
        try:
            one = prepare(request, args)
        except NoPeer as reason:
            return {"unavailable": str(reason)}, None
        except (RuntimeError, NotImplementedError) as error:
            return {"unavailable": str(error).splitlines()[0]}, None
        return {"ready": {}}, one
    if args.device == "cuda":
        return {"ms": common.event_ms(one, request["run"])}, one
    return {"ms": common.host_ms(one, request["run"], args)}, one


def main():
    args = common.arguments(common.parser(__doc__))
    if args.compile:
        # Backward graphs are kept and run again and again.
        torch._functorch.config.donated_buffer = False
    common.reply({"ready": common.about(args)})
    one = None
    for request in common.requests():
        if "case" in request:
            one = None  # frees the last case's memory first
            torch.compiler.reset()
        answered, one = answer(request, one, args)
        common.reply(answered)
    common.reply(common.memory(args))


main()
