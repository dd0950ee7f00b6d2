#!/usr/bin/env python3
"""What the compiler made of the kernels' loops, as a table, and whether it is within bounds.

    scripts/sass_loops.py OUT/*.fatbin                  prints the table
    scripts/sass_loops.py --check kernels/loops.tsv OUT/*.fatbin
    scripts/sass_loops.py --write kernels/loops.tsv OUT/*.fatbin

A kernel's main loop is the innermost loop with the most tensor-core instructions; of a kernel
without them, that with the most fused multiply-adds; without these, the largest innermost one. `step` counts the instructions of one turn: the path
through the loop that meets all its tensor-core instructions and copies, and else as few as
possible; `loop` counts all that lie in it, rare paths (the change of a tap) included.

--check fails where a step, a loop or what follows it has grown beyond the table's ceiling, where any
kernel touches local memory, and where PTX has arithmetic without a rounding mode, which ptxas may
contract to a fused multiply-add. --write sets the ceilings to what is there.

Needs cuobjdump and nvdisasm of CUDA 13 in .cuda/bin (scripts/install-nvcc.sh) or in PATH. Exit
codes: 0, 1 for a finding, 2 for bad input.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter

COLUMNS = ["kernel", "arch", "tensor", "ldsm", "ldgsts", "step_other", "loop", "tail"]
SHOWN = COLUMNS + ["before", "integer", "float", "memory", "uniform", "control"]
TENSOR = {"HMMA", "IMMA", "DMMA", "HGMMA", "IGMMA", "QGMMA", "OMMA", "QMMA"}
MEMORY = {"LDS", "STS", "LDG", "STG", "LD", "ST", "LDC", "ATOMG", "ATOMS", "ATOM", "RED", "REDG"}
CONTROL = {"BRA", "BRX", "BSSY", "BSYNC", "BAR", "EXIT", "CALL", "RET", "NOP", "LDGDEPBAR",
           "DEPBAR", "WARPSYNC", "BREAK", "MEMBAR", "ERRBAR", "CCTL"}
FLOAT = {"FADD", "FMUL", "FFMA", "FSETP", "FSEL", "FMNMX", "FCHK", "MUFU", "F2F", "F2I", "I2F",
         "F2FP", "HADD2", "HMUL2", "HFMA2", "DADD", "DMUL", "DFMA", "DSETP", "FSET", "I2FP"}
LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_]*)([^;]*);")


def stop(message):
    print(f"sass_loops: {message}", file=sys.stderr)
    sys.exit(2)


def tool(name):
    beside = os.path.join(os.path.dirname(__file__), "..", ".cuda", "bin", name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    return found or stop(f"no {name}: run scripts/install-nvcc.sh, or put it in PATH")


def dump(kind, path):
    environment = dict(os.environ, NVDISASM_PATH=os.path.dirname(tool("nvdisasm")))
    run = subprocess.run([tool("cuobjdump"), kind, path], capture_output=True, text=True,
                         env=environment)
    if run.returncode != 0:
        stop(f"{path}: not read: {' '.join(run.stderr.split())}; give .fatbin or .cubin files")
    return run.stdout


def functions(sass):
    """(arch, kernel, [(address, guard, opcode, operands)]) of cuobjdump -sass."""
    arch, name, code = "", None, []
    for line in sass.splitlines():
        if line.strip().startswith("Function :"):
            if name:
                yield arch, name, code
            name, code = line.split(":", 1)[1].strip(), []
        elif line.strip().startswith("code for"):
            if name:
                yield arch, name, code
            arch, name, code = line.split()[-1], None, []
        elif m := LINE.match(line):
            code.append((int(m[1], 16), m[2], m[3], m[4]))
    if name:
        yield arch, name, code


def target(operands):
    found = re.findall(r"0x([0-9a-f]+)", operands)
    return int(found[-1], 16) if found else None


class Kernel:
    def __init__(self, code):
        self.code = code
        at = {address: i for i, (address, *_) in enumerate(code)}
        self.branch = {}
        for i, (_, guard, op, operands) in enumerate(code):
            if op == "BRA" and (to := target(operands)) in at:
                # A predicate operand makes a branch conditional as a guard does.
                always = guard is None and not re.match(r"\S*\s+!?U?P\d", operands)
                self.branch[i] = (at[to], always)

    def loops(self):
        """[first, last] of every loop, the branches to one head taken together. The jump to
        itself that pads a kernel's end is none."""
        ends = {}
        for i, (to, _) in self.branch.items():
            if to < i:
                ends[to] = max(i, ends.get(to, i))
        return sorted(ends.items())

    def main_loop(self):
        loops = self.loops()
        if not loops:
            return None
        for wanted in (TENSOR, {"FFMA", "DFMA"}):
            has = lambda l: sum(self.code[i][2] in wanted for i in range(l[0], l[1] + 1))
            if most := max(map(has, loops)):
                return min((l for l in loops if has(l) == most), key=lambda l: l[1] - l[0])
        inner = [l for l in loops
                 if not any(o != l and l[0] <= o[0] and o[1] <= l[1] for o in loops)]
        return max(inner, key=lambda l: l[1] - l[0])

    def step(self, first, last):
        """Instructions of one turn, as indices."""
        wanted = lambda i: self.code[i][2] in TENSOR or self.code[i][2] in ("LDGSTS", "LDSM")
        best = {first: ((0, 0), None)}
        for i in range(first, last + 1):
            if i not in best:
                continue
            met, other = best[i][0]
            score = (met + 1, other) if wanted(i) else (met, other - 1)
            to, always = self.branch.get(i, (None, False))
            follow = [to] if always else [i + 1, to]
            if self.code[i][2] in ("EXIT", "RET") and self.code[i][1] is None:
                follow = []
            for next in follow:
                # The turn ends at the branch back to its head.
                next = last + 1 if next == first else next
                if next is None or next <= i or next > last + 1:
                    continue
                if next not in best or best[next][0] < score:
                    best[next] = (score, i)
        path, at = [], best.get(last + 1, (None, None))[1]
        while at is not None:
            path.append(at)
            at = best[at][1]
        return path


def kind(op):
    if op in TENSOR:
        return "tensor"
    if op in ("LDSM", "LDGSTS"):
        return op.lower()
    if op in MEMORY:
        return "memory"
    if op in CONTROL or op.startswith("SYNCS"):
        return "control"
    if op in FLOAT:
        return "float"
    return "uniform" if op.startswith("U") else "integer"


def row(arch, name, code):
    while code and code[-1][2] in ("NOP", "BRA") and (
            code[-1][2] == "NOP" or target(code[-1][3]) == code[-1][0]):
        code = code[:-1]
    kernel = Kernel(code)
    loop = kernel.main_loop()
    if loop is None:
        return None
    path = kernel.step(*loop)
    count = Counter(kind(code[i][2]) for i in path)
    special = sum(count[k] for k in ("tensor", "ldsm", "ldgsts"))
    return dict(kernel=name, arch=arch, before=loop[0], loop=loop[1] - loop[0] + 1,
                tail=len(code) - loop[1] - 1, step_other=len(path) - special,
                **{k: count[k] for k in SHOWN if k in ("tensor", "ldsm", "ldgsts", "integer",
                                                       "float", "memory", "uniform", "control")})


def local(arch, name, code):
    n = sum(op in ("LDL", "STL") for _, _, op, _ in code)
    return [f"{name} on {arch}: {n} accesses to local memory"] if n else []


def ptx_findings(path, ptx):
    """Local memory, and arithmetic whose rounding is the assembler's choice."""
    found, entry = Counter(), "?"
    for line in ptx.splitlines():
        if m := re.search(r"\.entry\s+(\w+)", line):
            entry = m[1]
        if re.match(r"\s*\.local\b", line) or re.search(r"\b(ld|st)\.local\b", line):
            found[entry, "local memory"] += 1
        if m := re.match(r"\s*(?:@!?%\w+\s+)?((?:add|sub|mul|mad)(?:\.\w+)*\.(?:f32|f64))\b", line):
            if not re.search(r"\.r[nzmp]\b", m[1]):
                found[entry, f"{m[1]} without a rounding mode"] += 1
    name = os.path.basename(path)
    return [f"{name}: {e}: {what} ({n} times)" for (e, what), n in sorted(found.items())]


def read_table(path):
    try:
        lines = [l for l in open(path).read().splitlines() if l and not l.startswith("#")]
    except OSError as e:
        stop(f"{path}: {e.strerror}; --write makes it")
    if not lines or lines[0].split("\t") != COLUMNS:
        stop(f"{path}: expected the columns {' '.join(COLUMNS)}; --write makes it")
    rows = {}
    for n, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != len(COLUMNS) or not all(f.isdigit() for f in fields[2:]):
            stop(f"{path}: row {n}: cannot read `{line}`; --write makes it")
        rows[fields[0], fields[1]] = dict(zip(COLUMNS[2:], map(int, fields[2:])))
    return rows


def main():
    arguments, mode, table = sys.argv[1:], None, None
    if arguments and arguments[0] in ("--check", "--write"):
        if len(arguments) < 3:
            stop(f"{arguments[0]} wants a table and fatbins")
        mode, table, arguments = arguments[0], arguments[1], arguments[2:]
    if not arguments or arguments[0].startswith("-"):
        stop("usage: sass_loops.py [--check TABLE | --write TABLE] FATBIN...")
    rows, findings, kernels = [], [], 0
    for path in arguments:
        if not os.path.isfile(path):
            stop(f"{path}: no such file")
        for arch, name, code in functions(dump("-sass", path)):
            kernels += 1
            findings += local(arch, name, code)
            if r := row(arch, name, code):
                rows.append(r)
        findings += ptx_findings(path, dump("-ptx", path))
    if kernels == 0:
        stop("no kernel in these files")
    rows.sort(key=lambda r: (r["kernel"], r["arch"]))
    if mode is None:
        print("\t".join(SHOWN))
        for r in rows:
            print("\t".join(str(r[c]) for c in SHOWN))
    if mode == "--write":
        with open(table, "w") as f:
            f.write("# Instructions of a turn of each kernel's main loop, and after it: ceilings, by "
                    "scripts/sass_loops.py of nvcc 13.0.\n")
            f.write("\t".join(COLUMNS) + "\n")
            for r in rows:
                f.write("\t".join(str(r[c]) for c in COLUMNS) + "\n")
    if mode == "--check":
        known = read_table(table)
        for r in rows:
            key = r["kernel"], r["arch"]
            if key not in known:
                findings.append(f"{key[0]} on {key[1]}: not in {table}")
                continue
            for c in COLUMNS[2:]:
                if r[c] > known[key][c]:
                    findings.append(f"{key[0]} on {key[1]}: {c} {r[c]}, ceiling {known[key][c]}")
        here = {(r["kernel"], r["arch"]) for r in rows}
        findings += [f"{k} on {a}: in {table}, but not compiled" for k, a in known
                     if (k, a) not in here]
    for line in findings:
        print(line, file=sys.stderr)
    if mode:
        print(f"{kernels} kernels, {len(rows)} with a loop, {len(findings)} findings")
    sys.exit(1 if findings else 0)


main()
