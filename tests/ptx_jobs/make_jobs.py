#!/usr/bin/env python3
"""The fixtures beside this file: kernels that Triton compiled, with inputs and right answers.

    python make_jobs.py [OUT]        # Triton 3.6 and numpy, no GPU; OUT: this folder

Every kernel is code that somebody else's compiler emits for silicon, so it judges the machine
without sharing its reading of the manual. Answers are computed by numpy in float64 (integers
exactly). `src/ptx/job.rs` documents job.json; `tests/ptx_jobs.rs` runs each under every schedule.
Only `sm90_im2col_conv` is edited after Triton: its tile loads become im2col loads, an instruction
that Triton 3.6 does not emit. ptxas, which Triton brings, assembles every text, the edited one too.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # no paths of this machine in the fixtures

import numpy as np
import triton
import triton.experimental.gluon.language as gl
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental import gluon
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma_init, warpgroup_mma_wait

# ---------------------------------------------------------------------------------- kernels


@triton.jit
def product_transposed(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C[M][N] = A[K][M] transposed times B[N][K] transposed, in f16, ragged on every side."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + k[:, None] * M + m[None, :], mask=(k[:, None] < K) & (m[None, :] < M), other=0.0)
        right = tl.load(b + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0.0)
        total = tl.dot(tl.trans(left), tl.trans(right), total)
    tl.store(c + m[:, None] * N + n[None, :], total.to(tl.float16), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def product_tf32(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + m[:, None] * K + k[None, :])
        right = tl.load(b + k[:, None] * N + n[None, :])
        total = tl.dot(left, right, total, input_precision="tf32")
    tl.store(c + m[:, None] * N + n[None, :], total)


@triton.jit
def product_by_maps(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr):
    """C = A · B with B stored [N][K]; loads and the store by TMA."""
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        total = tl.dot(a.load([m, k]), b.load([n, k]).T, total, input_precision="tf32")
    c.store([m, n], total.to(KIND))


@triton.jit
def attention(q, k, v, o, n, scale, BQ: tl.constexpr, BK: tl.constexpr, D: tl.constexpr):
    """Softmax(Q·K^T)·V with a running maximum: the probabilities enter wgmma from registers."""
    queries = q.load([tl.program_id(0) * BQ, 0])
    top = tl.full((BQ,), -float("inf"), tl.float32)
    norm = tl.zeros((BQ,), tl.float32)
    total = tl.zeros((BQ, D), tl.float32)
    for start in range(0, n, BK):
        logits = tl.dot(queries, k.load([start, 0]).T) * scale
        higher = tl.maximum(top, tl.max(logits, 1))
        p = tl.exp2(logits - higher[:, None])
        shrink = tl.exp2(top - higher)
        norm = norm * shrink + tl.sum(p, 1)
        total = tl.dot(p.to(tl.float16), v.load([start, 0]), total * shrink[:, None])
        top = higher
    o.store([tl.program_id(0) * BQ, 0], (total / norm[:, None]).to(tl.float16))


@triton.jit
def move_boxes(a, b, c, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """b = a shifted by (-5, -8), and added into c: boxes that hang over every edge."""
    i, j = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    x = a.load([i - 5, j - 8])
    b.store([i, j], x)
    c.atomic_add([i, j], x)


@triton.jit
def histogram(x, counts, sums, top, first, n, BLOCK: tl.constexpr):
    """Atomics: counts (u32), sums of exact values (f32), a maximum, and the smallest index by cas."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(counts + value, 1, mask=i < n, sem="relaxed")
    tl.atomic_add(sums + value, i.to(tl.float32), mask=i < n, sem="relaxed")
    tl.atomic_max(top + value, i, mask=i < n, sem="relaxed")
    tl.atomic_min(first + value, i, mask=i < n, sem="relaxed")


@triton.jit
def add_pairs(first, second):
    return first + second


@triton.jit
def rows(x, sums, best, ranks, sorted_, n, BLOCK: tl.constexpr):
    """Per row: sum, argmax, running sums, and the row in order."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=-(1 << 20))
    tl.store(sums + row, tl.sum(tl.where(at < n, value, 0), 0))
    tl.store(best + row, tl.argmax(value, 0))
    tl.store(ranks + row * n + at, tl.associative_scan(value, 0, add_pairs), mask=at < n)
    # Past the end are the smallest: in falling order they come last.
    tl.store(sorted_ + row * n + at, tl.sort(value, descending=True), mask=at < n)


@triton.jit
def normalise(x, w, y, n, eps, BLOCK: tl.constexpr):
    """Layer norm of bf16 rows."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / n
    off = tl.where(at < n, value - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(off * off, 0) / n + eps)
    weight = tl.load(w + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y + row * n + at, (off * scale * weight).to(tl.bfloat16), mask=at < n)


@triton.jit
def product(a, b, c, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SUM: tl.constexpr):
    """C = A · B with sums of the type SUM; every size is a multiple of the tile's."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), SUM)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + m[:, None] * K + k[None, :])
        right = tl.load(b + k[:, None] * N + n[None, :])
        total = tl.dot(left, right, total, out_dtype=SUM)
    tl.store(c + m[:, None] * N + n[None, :], total)


@triton.jit
def product_by_own_maps(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C = A · B transposed through tensor maps that the kernel makes itself."""
    a = tl.make_tensor_descriptor(a_ptr, shape=[M, K], strides=[K, 1], block_shape=[BM, BK])
    b = tl.make_tensor_descriptor(b_ptr, shape=[N, K], strides=[K, 1], block_shape=[BN, BK])
    c = tl.make_tensor_descriptor(c_ptr, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        total = tl.dot(a.load([m, k]), b.load([n, k]).T, total)
    c.store([m, n], total.to(tl.float16))


@triton.jit
def waves(x, y, n, BLOCK: tl.constexpr):
    """Sines of f64 far from zero: a function that is called, its local memory, the module's tables."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(y + i, tl.sin(value) + tl.cos(value * 3.0), mask=i < n)


@triton.jit
def narrow(x, y, n, BLOCK: tl.constexpr):
    """f32 to both floats of 8 bits, to f16 and bf16, and back: their sum, exact in f32."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0.0)
    total = value.to(tl.float8e4nv).to(tl.float32) + value.to(tl.float8e5).to(tl.float32)
    total += value.to(tl.float16).to(tl.float32) + value.to(tl.bfloat16).to(tl.float32)
    tl.store(y + i, total, mask=i < n)


@triton.jit
def running_sums(x, y, ready, sums, BLOCK: tl.constexpr):
    """Running sums across blocks: each waits for the one before it, which publishes its own."""
    block = tl.program_id(0)
    i = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i)
    before = 0
    if block > 0:
        while tl.atomic_add(ready + block - 1, 0, sem="acquire") == 0:
            pass
        before = tl.load(sums + block - 1, volatile=True)
    tl.store(sums + block, before + tl.sum(value, 0))
    tl.debug_barrier()
    tl.atomic_xchg(ready + block, 1, sem="release")
    tl.store(y + i, before + tl.cumsum(value, 0))


@gluon.jit
def produce(a, b, ready, empty, left, right, m, n, K, STAGES: gl.constexpr):
    BK: gl.constexpr = a.block_type.shape[1]
    phase = 1
    stage = 0
    for k in range(0, K, BK):
        mbarrier.wait(empty.index(stage), phase)
        mbarrier.expect(ready.index(stage), a.block_type.nbytes + b.block_type.nbytes)
        tma.async_copy_global_to_shared(a, [m, k], ready.index(stage), left.index(stage))
        tma.async_copy_global_to_shared(b, [k, n], ready.index(stage), right.index(stage))
        stage += 1
        if stage == STAGES:
            stage = 0
            phase ^= 1


@gluon.jit
def consume(c, ready, empty, left, right, out, m, n, K, BK: gl.constexpr, STAGES: gl.constexpr):
    BM: gl.constexpr = out.type.shape[0]
    BN: gl.constexpr = out.type.shape[1]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 16])
    total = warpgroup_mma_init(gl.zeros((BM, BN), gl.float32, layout))
    phase = 0
    stage = 0
    for k in range(0, K, BK):
        mbarrier.wait(ready.index(stage), phase)
        total = warpgroup_mma(left.index(stage), right.index(stage), total, is_async=True)
        total = warpgroup_mma_wait(0, deps=(total,))
        mbarrier.arrive(empty.index(stage), count=1)
        total = warpgroup_mma_init(total)
        stage += 1
        if stage == STAGES:
            stage = 0
            phase ^= 1
    total = warpgroup_mma_wait(0, deps=(total,))
    out.store(total.to(gl.bfloat16))
    fence_async_shared()
    tma.async_copy_shared_to_global(c, [m, n], out)
    tma.store_wait(0)


@gluon.jit
def product_specialised(a, b, c, K, STAGES: gl.constexpr):
    """One warp loads, four multiply: full and empty barriers, setmaxnreg, named barriers."""
    BM: gl.constexpr = a.block_type.shape[0]
    BK: gl.constexpr = a.block_type.shape[1]
    BN: gl.constexpr = b.block_type.shape[1]
    m, n = gl.program_id(0) * BM, gl.program_id(1) * BN
    left = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BM, BK], a.layout)
    right = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BK, BN], b.layout)
    out = gl.allocate_shared_memory(gl.bfloat16, [BM, BN], c.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    fence_async_shared()
    gl.warp_specialize([(consume, (c, ready, empty, left, right, out, m, n, K, BK, STAGES)),
                        (produce, (a, b, ready, empty, left, right, m, n, K, STAGES))], [1], [24])


@gluon.jit
def convolve(x, w, y, TAPS: gl.constexpr, WIDTH: gl.constexpr):
    """y[pixel][k] = sum over taps of x at the pixel moved by the tap, times w[tap][c][k].

    The loads of x are tile loads of a 4-D box here; `im2col` makes columns of pixels of them."""
    BN: gl.constexpr = w.block_type.shape[1]
    C: gl.constexpr = w.block_type.shape[0]
    P: gl.constexpr = x.block_type.shape[2]
    ROW: gl.constexpr = gl.program_id
    first = gl.program_id(0) * P
    left = gl.allocate_shared_memory(gl.bfloat16, [1, 1, P, C], x.layout)
    right = gl.allocate_shared_memory(gl.bfloat16, [C, BN], w.layout)
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(ready, count=1)
    fence_async_shared()
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 16])
    total = gl.zeros((P, BN), gl.float32, layout)
    # The base pixel of the first output: image, line, column, each from -1 on.
    column = first % WIDTH
    line = first // WIDTH % WIDTH
    image = first // WIDTH // WIDTH
    phase = 0
    for tap in gl.static_range(TAPS):
        mbarrier.expect(ready, x.block_type.nbytes + w.block_type.nbytes)
        tma.async_copy_global_to_shared(x, [image, line - 1, column - 1, 0], ready, left)
        tma.async_copy_global_to_shared(w, [tap * C, 0], ready, right)
        mbarrier.wait(ready, phase)
        phase ^= 1
        total = warpgroup_mma(left.reshape((P, C)), right, total, is_async=False)
    base: gl.constexpr = gl.SliceLayout(1, layout)
    pixel = first + gl.arange(0, P, gl.SliceLayout(1, layout))
    k = gl.arange(0, BN, gl.SliceLayout(0, layout))
    gl.store(y + pixel[:, None] * BN + k[None, :], total)


# ---------------------------------------------------------------------------------- making


def ieee_bf16(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_value(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def compiled(fn, signature, constants, arch, gluon_source=False, wide=True, **options):
    attrs = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if wide and kind[0] in "*i"}
    make = GluonASTSource if gluon_source else ASTSource
    source = make(fn=fn, signature={**signature, **{k: "constexpr" for k in constants}}, constexprs=constants, attrs=attrs)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def check_by_ptxas(ptx, name):
    arch = re.search(r"^\.target (\w+)", ptx, re.M).group(1)
    assembler = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        done = subprocess.run([assembler, f"-arch={arch}", "-o", f"{folder}/out", path], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{name}: ptxas refuses it: {done.stderr}")


class Job:
    """A folder with kernel.ptx, job.json and the arrays."""

    def __init__(self, out, name, kernel, grid, edit=None):
        self.dir = pathlib.Path(out) / name
        self.dir.mkdir(parents=True, exist_ok=True)
        self.meta, self.args, self.maps = kernel.metadata, [], 0
        ptx = kernel.asm["ptx"]
        ptx = edit(ptx) if edit else ptx
        ptx = re.sub(r"[ \t]+// .*$|^[ \t]*//.*\n", "", ptx, flags=re.M)
        check_by_ptxas(ptx, name)
        (self.dir / "kernel.ptx").write_text(ptx)
        warps = self.meta.num_warps
        exact = re.search(r"\.(?:req|max)ntid (\d+)", ptx)
        threads = int(exact.group(1)) if exact else 32 * warps
        self.job = {"ptx": "kernel.ptx", "entry": self.meta.name, "grid": list(grid), "block": [threads, 1, 1],
                    "dynamic_shared_bytes": self.meta.shared, "args": self.args}
        self.parameters = len(re.findall(r"\.param ", ptx[ptx.index(".entry"):ptx.index("\n{")]))

    def array(self, name, values):
        (self.dir / name).write_bytes(np.ascontiguousarray(values).tobytes())

    def buffer(self, name, values):
        self.array(name, values)
        self.args.append({"buffer": name})

    def result(self, name, before, after, dtype, atol=0.0, rtol=0.0):
        self.array(name, before)
        self.array(f"expected_{name}", after)
        self.args.append({"buffer": name, "expect": f"expected_{name}", "dtype": dtype, "atol": atol, "rtol": rtol})

    def map(self, name, values, dtype, before=None, atol=0.0, rtol=0.0, box=None, swizzle=None, im2col=None):
        """A tensor map of a row-major array; with `before`, `values` is what must come out."""
        size = values.dtype.itemsize
        dims = list(reversed(values.shape))
        strides = [size * int(np.prod(dims[:i])) for i in range(1, len(dims))]
        if box is None:
            meta = self.meta.tensordesc_meta[self.maps]
            box, swizzle = list(reversed(meta["block_size"])), {0: 0, 1: 32, 2: 64, 3: 128}[meta["swizzle"]]
        self.maps += 1
        entry = {"dtype": dtype, "buffer": name, "dims": dims, "strides_bytes": strides, "swizzle": swizzle}
        entry.update({"im2col": im2col} if im2col else {"box": box})
        if before is None:
            self.array(name, values)
        else:
            self.array(name, before)
            self.array(f"expected_{name}", values)
            entry.update({"expect": f"expected_{name}", "atol": atol, "rtol": rtol})
        self.args.append({"tensor_map": entry})
        # A descriptor argument is the map, then shape and strides as plain numbers.
        self.args.extend({"u32": extent} for extent in values.shape)
        self.args.extend({"u64": stride // size} for stride in reversed(strides))
        self.args.append({"u64": 1})

    def number(self, kind, value):
        self.args.append({kind: value})

    def write(self):
        # Triton appends pointers to scratch of its own.
        while len(self.args) < self.parameters:
            self.args.append({"scratch": 4096})
        (self.dir / "job.json").write_text(json.dumps(self.job, indent=1) + "\n")
        print(f"{self.dir.name}: {sum(f.stat().st_size for f in self.dir.iterdir())} bytes")


def mma_f16_transposed(out):
    m, n, k, rng = 72, 56, 88, np.random.default_rng(11)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((k, m), (n, k)))
    kernel = compiled(product_transposed, {"a": "*fp16", "b": "*fp16", "c": "*fp16", "M": "i32", "N": "i32", "K": "i32"},
                      {"BM": 32, "BN": 64, "BK": 32}, 80, num_warps=4, num_stages=2, wide=False)
    job = Job(out, "sm80_mma_f16_transposed", kernel, (3, 1, 1))
    want = a.astype(np.float64).T @ b.astype(np.float64).T
    job.buffer("a.bin", a)
    job.buffer("b.bin", b)
    job.result("c.bin", np.full((m, n), np.nan, np.float16), want.astype(np.float16), "f16", atol=2e-3, rtol=1e-3)
    for value in (m, n, k):
        job.number("u32", value)
    job.write()


def tf32(x):
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) & 0xFFFFE000).view(np.float32)


def mma_tf32(out):
    m, n, k, rng = 64, 64, 64, np.random.default_rng(12)
    a, b = (tf32(rng.standard_normal(shape)) for shape in ((m, k), (k, n)))
    kernel = compiled(product_tf32, {"a": "*fp32", "b": "*fp32", "c": "*fp32", "M": "i32", "N": "i32", "K": "i32"},
                      {"BM": 64, "BN": 32, "BK": 32}, 80, num_warps=2, num_stages=3)
    job = Job(out, "sm80_mma_tf32", kernel, (1, 2, 1))
    job.buffer("a.bin", a)
    job.buffer("b.bin", b)
    job.result("c.bin", np.full((m, n), np.nan, np.float32), (a.astype(np.float64) @ b).astype(np.float32), "f32", atol=1e-4)
    for value in (m, n, k):
        job.number("u32", value)
    job.write()


def wgmma_maps(out, name, dtype, m, n, k, bm, bn, bk, warps, stages, seed):
    rng = np.random.default_rng(seed)
    numpy_type, kind, value = {"f16": (np.float16, "fp16", tl.float16), "f32": (np.float32, "fp32", tl.float32)}[dtype]
    a, b = (rng.standard_normal(shape).astype(numpy_type) for shape in ((m, k), (n, k)))
    if dtype == "f32":
        a, b = tf32(a), tf32(b)
    want = (a.astype(np.float64) @ b.astype(np.float64).T).astype(numpy_type)
    kernel = compiled(product_by_maps, {"a": f"tensordesc<{kind}[{bm}, {bk}]>", "b": f"tensordesc<{kind}[{bn}, {bk}]>",
                                        "c": f"tensordesc<{kind}[{bm}, {bn}]>", "K": "i32"},
                      {"BM": bm, "BN": bn, "BK": bk, "KIND": value}, 90, num_warps=warps, num_stages=stages)
    job = Job(out, name, kernel, (-(-m // bm), -(-n // bn), 1))
    job.map("a.bin", a, dtype)
    job.map("b.bin", b, dtype)
    job.map("c.bin", want, dtype, before=np.full((m, n), np.nan, numpy_type), atol=2e-3, rtol=1e-3 if dtype == "f16" else 0.0)
    job.number("u32", k)
    job.write()


def attention_job(out):
    n, d, rng = 128, 64, np.random.default_rng(15)
    q, k, v = (rng.standard_normal((n, d)).astype(np.float16) for _ in range(3))
    desc = f"tensordesc<fp16[64, {d}]>"
    kernel = compiled(attention, {"q": desc, "k": desc, "v": desc, "o": desc, "n": "i32", "scale": "fp32"},
                      {"BQ": 64, "BK": 64, "D": d}, 90, num_warps=4, num_stages=2)
    scale = 1.4426950408889634 / 8
    logits = q.astype(np.float64) @ k.astype(np.float64).T * scale
    p = np.exp2(logits - logits.max(1, keepdims=True))
    want = (p @ v.astype(np.float64)) / p.sum(1, keepdims=True)
    job = Job(out, "sm90_attention", kernel, (n // 64, 1, 1))
    job.map("q.bin", q, "f16")
    job.map("k.bin", k, "f16")
    job.map("v.bin", v, "f16")
    job.map("o.bin", want.astype(np.float16), "f16", before=np.full((n, d), np.nan, np.float16), atol=2e-3)
    job.number("u32", n)
    job.number("f32", scale)
    job.write()


def boxes(out, columns, name):
    # 47 lines of 72: the last boxes hang over on both sides. The type is f32 with exact sums.
    shape, rng = (47, 72), np.random.default_rng(16)
    a, c = (rng.integers(-99, 99, shape).astype(np.float32) for _ in range(2))
    moved = np.zeros(shape, np.float32)
    moved[5:, 8:] = a[:-5, :-8]
    desc = f"tensordesc<fp32[16, {columns}]>"
    kernel = compiled(move_boxes, {"a": desc, "b": desc, "c": desc}, {"ROWS": 16, "COLUMNS": columns}, 90, num_warps=4)
    job = Job(out, name, kernel, (3, -(-shape[1] // columns), 1))
    job.map("a.bin", a, "f32")
    job.map("b.bin", moved, "f32", before=np.full(shape, np.nan, np.float32))
    job.map("c.bin", c + moved, "f32", before=c)
    job.write()


def atomics(out):
    n, bins, rng = 1000, 37, np.random.default_rng(17)
    x = rng.integers(0, bins, n).astype(np.int32)
    kernel = compiled(histogram, {"x": "*i32", "counts": "*i32", "sums": "*fp32", "top": "*i32", "first": "*i32", "n": "i32"},
                      {"BLOCK": 256}, 80, num_warps=4, wide=False)
    index = np.arange(n)
    job = Job(out, "sm80_atomics", kernel, (4, 1, 1))
    job.buffer("x.bin", x)
    zero, large = np.zeros(bins, np.int32), np.full(bins, 1 << 30, np.int32)
    job.result("counts.bin", zero, np.bincount(x, minlength=bins).astype(np.int32), "i32")
    job.result("sums.bin", zero.astype(np.float32), np.bincount(x, index, bins).astype(np.float32), "f32")
    job.result("top.bin", zero - 1, np.array([index[x == b].max() for b in range(bins)], np.int32), "i32")
    job.result("first.bin", large, np.array([index[x == b].min() for b in range(bins)], np.int32), "i32")
    job.number("u32", n)
    job.write()


def reductions(out):
    shape, rng = (5, 200), np.random.default_rng(18)
    x = rng.integers(-500, 500, shape).astype(np.int32)
    kernel = compiled(rows, {"x": "*i32", "sums": "*i32", "best": "*i32", "ranks": "*i32", "sorted_": "*i32", "n": "i32"},
                      {"BLOCK": 256}, 90, num_warps=4, wide=False)
    job = Job(out, "sm90_reductions", kernel, (shape[0], 1, 1))
    blank = np.full(shape, -7, np.int32)
    job.buffer("x.bin", x)
    job.result("sums.bin", blank[:, 0], x.sum(1).astype(np.int32), "i32")
    job.result("best.bin", blank[:, 0], x.argmax(1).astype(np.int32), "i32")
    job.result("ranks.bin", blank, x.cumsum(1).astype(np.int32), "i32")
    job.result("sorted.bin", blank, -np.sort(-x, 1), "i32")
    job.number("u32", shape[1])
    job.write()


def layer_norm(out):
    shape, rng = (6, 520), np.random.default_rng(19)
    x, w = ieee_bf16(rng.standard_normal(shape) * 3 + 1), ieee_bf16(rng.standard_normal(shape[1]))
    kernel = compiled(normalise, {"x": "*bf16", "w": "*bf16", "y": "*bf16", "n": "i32", "eps": "fp32"},
                      {"BLOCK": 1024}, 80, num_warps=4)
    value = bf16_value(x)
    off = value - value.mean(1, keepdims=True)
    want = off / np.sqrt((off * off).mean(1, keepdims=True) + 1e-5) * bf16_value(w)
    job = Job(out, "sm80_layer_norm_bf16", kernel, (shape[0], 1, 1))
    job.buffer("x.bin", x)
    job.buffer("w.bin", w)
    job.result("y.bin", np.full(shape, 0x7FC0, np.uint16), ieee_bf16(want), "bf16", atol=1e-3, rtol=8e-3)
    job.number("u32", shape[1])
    job.number("f32", 1e-5)
    job.write()


def gluon_map(dtype, kind, block, swizzle):
    layout = gl.NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=dtype, rank=len(block))
    return f"tensordesc<{kind}{block},{layout!r}>"


def specialised(out):
    m, n, k, rng = 128, 64, 320, np.random.default_rng(20)
    a, b = ieee_bf16(rng.standard_normal((m, k))), ieee_bf16(rng.standard_normal((k, n)))
    kernel = compiled(product_specialised, {"a": gluon_map(16, "bf16", [64, 64], 128), "b": gluon_map(16, "bf16", [64, 64], 128),
                                            "c": gluon_map(16, "bf16", [64, 64], 128), "K": "i32"},
                      {"STAGES": 2}, 90, gluon_source=True, num_warps=4)
    want = ieee_bf16(bf16_value(a) @ bf16_value(b))
    job = Job(out, "sm90_warp_specialised", kernel, (m // 64, n // 64, 1))
    for name, values, before in (("a.bin", a, None), ("b.bin", b, None), ("c.bin", want, np.full((m, n), 0x7FC0, np.uint16))):
        job.map(name, values, "bf16", before=before, atol=2e-3, rtol=8e-3)
    job.number("u32", k)
    job.write()


def im2col(ptx):
    """Turns each load of the 4-D box into a column of pixels, with the tap's offsets, in order."""
    taps = iter(range(9))

    def edit(found):
        tap = next(taps)
        return (f"cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
                f"{found.group(1)}, {{{tap % 3}, {tap // 3}}};")

    ptx = re.sub(r"cp\.async\.bulk\.tensor\.4d\.shared::cluster\.global\.mbarrier::complete_tx::bytes (.*);", edit, ptx)
    assert next(taps, None) is None, "nine taps"
    return ptx


def convolution(out):
    images, size, c, k, rng = 2, 8, 32, 32, np.random.default_rng(21)
    x = ieee_bf16(rng.standard_normal((images, size, size, c)))
    w = ieee_bf16(rng.standard_normal((9 * c, k)))
    kernel = compiled(convolve, {"x": gluon_map(16, "bf16", [1, 1, 64, c], 64), "w": gluon_map(16, "bf16", [c, k], 64),
                                 "y": "*fp32"}, {"TAPS": 9, "WIDTH": size}, 90, gluon_source=True, num_warps=4)
    padded = np.pad(bf16_value(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, r:r + size, q:q + size] for r in range(3) for q in range(3)]
    want = np.concatenate(taps, -1).reshape(images * size * size, 9 * c) @ bf16_value(w)
    job = Job(out, "sm90_im2col_conv", kernel, (images * size * size // 64, 1, 1), edit=im2col)
    job.map("x.bin", x, "bf16", box=[], swizzle=64,
            im2col={"lower": [-1, -1], "upper": [-1, -1], "channels": c, "pixels": 64})
    job.map("w.bin", w, "bf16", box=[k, c], swizzle=64)
    job.result("y.bin", np.full(want.shape, np.nan, np.float32), want.astype(np.float32), "f32", atol=1e-3)
    job.write()


def plain_product(out, name, kinds, sums, m, n, k, bm, bn, bk, arch, warps, stages, seed):
    """`kinds`: Triton's types of the operands and of the result; `sums`: the dtype of the result."""
    rng = np.random.default_rng(seed)
    kind, result, sum_type = kinds
    if kind == "i8":
        a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((m, k), (k, n)))
        want, atol = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32), 0.0
    else:
        numpy_type = {"fp16": np.float16, "fp64": np.float64}[kind]
        a, b = (rng.standard_normal(shape).astype(numpy_type) for shape in ((m, k), (k, n)))
        want = (a.astype(np.float64) @ b.astype(np.float64)).astype(numpy_type)
        # Sums of f16 are rounded at each step.
        atol = {"fp16": 0.05, "fp64": 1e-12}[kind]
    kernel = compiled(product, {"a": f"*{kind}", "b": f"*{kind}", "c": f"*{result}", "N": "i32", "K": "i32"},
                      {"BM": bm, "BN": bn, "BK": bk, "SUM": sum_type}, arch, num_warps=warps, num_stages=stages)
    job = Job(out, name, kernel, (m // bm, n // bn, 1))
    job.buffer("a.bin", a)
    job.buffer("b.bin", b)
    job.result("c.bin", np.full((m, n), -7, want.dtype), want, sums, atol=atol)
    job.number("u32", n)
    job.number("u32", k)
    job.write()


def own_maps(out):
    m, n, k, rng = 72, 40, 96, np.random.default_rng(31)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (n, k)))
    kernel = compiled(product_by_own_maps, {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp16", "M": "i32", "N": "i32", "K": "i32"},
                      {"BM": 64, "BN": 32, "BK": 32}, 90, num_warps=4, num_stages=2, wide=False)
    want = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float16)
    job = Job(out, "sm90_own_maps", kernel, (2, 2, 1))
    job.buffer("a.bin", a)
    job.buffer("b.bin", b)
    job.result("c.bin", np.full((m, n), np.nan, np.float16), want, "f16", atol=2e-3, rtol=1e-3)
    for value in (m, n, k):
        job.number("u32", value)
    job.write()


def sines(out):
    n, rng = 200, np.random.default_rng(32)
    x = np.concatenate([rng.standard_normal(n // 2) * 3, rng.standard_normal(n // 2) * 1e9])
    kernel = compiled(waves, {"x": "*fp64", "y": "*fp64", "n": "i32"}, {"BLOCK": 128}, 80, num_warps=2, wide=False)
    job = Job(out, "sm80_sines_f64", kernel, (2, 1, 1))
    job.buffer("x.bin", x)
    job.result("y.bin", np.full(n, np.nan), np.sin(x) + np.cos(x * 3), "f64", atol=1e-14)
    job.number("u32", n)
    job.write()


def float8(x, digits, least, most):
    """To nearest, ties to even, at most `most`."""
    size = np.abs(x.astype(np.float64))
    exponent = np.maximum(np.floor(np.log2(np.maximum(size, 1e-300))), least)
    unit = 2.0 ** (exponent - digits)
    return np.copysign(np.minimum(np.rint(size / unit) * unit, most), x)


def floats8(out):
    n, rng = 300, np.random.default_rng(33)
    x = (rng.standard_normal(n) * 2.0 ** rng.integers(-20, 9, n)).astype(np.float32)
    x[:6] = [0.0, -0.0, 500.0, -448.0, 2.0**-10, 1.0625]
    kernel = compiled(narrow, {"x": "*fp32", "y": "*fp32", "n": "i32"}, {"BLOCK": 256}, 90, num_warps=4, wide=False)
    want = float8(x, 3, -6, 448) + float8(x, 2, -14, 57344) + x.astype(np.float16) + bf16_value(ieee_bf16(x))
    job = Job(out, "sm90_float8", kernel, (2, 1, 1))
    job.buffer("x.bin", x)
    job.result("y.bin", np.full(n, np.nan, np.float32), want.astype(np.float32), "f32", rtol=1e-6)
    job.number("u32", n)
    job.write()


def look_back(out):
    blocks, size, rng = 6, 64, np.random.default_rng(34)
    x = rng.integers(-50, 50, blocks * size).astype(np.int32)
    kernel = compiled(running_sums, {"x": "*i32", "y": "*i32", "ready": "*i32", "sums": "*i32"}, {"BLOCK": size}, 80, num_warps=2, wide=False)
    job = Job(out, "sm80_look_back", kernel, (blocks, 1, 1))
    zero = np.zeros(blocks, np.int32)
    job.buffer("x.bin", x)
    job.result("y.bin", x * 0, x.cumsum().astype(np.int32), "i32")
    job.result("ready.bin", zero, zero + 1, "i32")
    job.result("sums.bin", zero, x.reshape(blocks, size).sum(1).cumsum().astype(np.int32), "i32")
    job.write()


def main(out):
    mma_f16_transposed(out)
    mma_tf32(out)
    atomics(out)
    layer_norm(out)
    reductions(out)
    wgmma_maps(out, "sm90_wgmma_f16", "f16", 100, 72, 160, 64, 64, 64, 4, 3, 13)
    wgmma_maps(out, "sm90_wgmma_f16_narrow", "f16", 64, 48, 96, 64, 16, 32, 4, 2, 22)
    wgmma_maps(out, "sm90_wgmma_tf32", "f32", 64, 40, 96, 64, 32, 32, 4, 2, 14)
    attention_job(out)
    boxes(out, 8, "sm90_boxes_32")
    boxes(out, 32, "sm90_boxes_128")
    specialised(out)
    convolution(out)
    plain_product(out, "sm90_wgmma_s8", ("i8", "i32", tl.int32), "i32", 64, 64, 64, 64, 64, 32, 90, 4, 2, 35)
    plain_product(out, "sm80_mma_s8", ("i8", "i32", tl.int32), "i32", 64, 32, 64, 32, 32, 32, 80, 2, 2, 36)
    plain_product(out, "sm90_wgmma_f16_sums", ("fp16", "fp16", tl.float16), "f16", 64, 64, 96, 64, 64, 32, 90, 4, 2, 37)
    plain_product(out, "sm80_mma_f64", ("fp64", "fp64", tl.float64), "f64", 32, 32, 16, 32, 32, 16, 80, 2, 1, 38)
    own_maps(out)
    sines(out)
    floats8(out)
    look_back(out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
