// The runtime's own pieces, each against a plain definition in tests/unit_kernels.rs.
#include "simt/tests/args.cuh"

constexpr unsigned kAll = 0xFFFFFFFFu;

// x: an int per thread. y[row][thread]: the rows in the order below.
KERNEL(unit_collectives, TestArgs, 64) {
  const int v = static_cast<const int*>(a.x)[threadIdx.x];
  const unsigned lane = threadIdx.x % 32;
  int* y = static_cast<int*>(a.y) + threadIdx.x;
  const auto put = [&](int value) {
    *y = value;
    y += 64;
  };
  put(__shfl_sync(kAll, v, 5));
  put(__shfl_sync(kAll, v, static_cast<int>(lane * 7 % 32)));
  put(__shfl_sync(kAll, v, 11, 8));
  put(__shfl_up_sync(kAll, v, 3));
  put(__shfl_up_sync(kAll, v, 3, 8));
  put(__shfl_down_sync(kAll, v, 5));
  put(__shfl_down_sync(kAll, v, 5, 16));
  put(__shfl_xor_sync(kAll, v, 9));
  put(__shfl_xor_sync(kAll, v, 12, 8));
  put(static_cast<int>(__ballot_sync(kAll, v & 1)));
  put(__any_sync(kAll, v == 7));
  put(__all_sync(kAll, v >= 0));
  put(static_cast<int>(__match_any_sync(kAll, v % 4)));
  put(static_cast<int>(__reduce_add_sync(kAll, static_cast<unsigned>(v))));
  put(__reduce_min_sync(kAll, v));
  put(__reduce_max_sync(kAll, v));
  put(static_cast<int>(__reduce_and_sync(kAll, static_cast<unsigned>(v))));
  put(static_cast<int>(__reduce_or_sync(kAll, static_cast<unsigned>(v))));
  put(static_cast<int>(__reduce_xor_sync(kAll, static_cast<unsigned>(v))));
  // Two halves at once, each with its own mask, in its own time.
  int half = v;
  if (lane < 16) {
    for (int d = 1; d < 16; d *= 2) half += __shfl_xor_sync(0x0000FFFFu, half, d);
  } else {
    half = __shfl_sync(0xFFFF0000u, half, 20);
  }
  __syncwarp();
  put(half);
  put(__syncthreads_count(v & 1));
  put(__syncthreads_or(v == 7));
  put(__syncthreads_and(v >= 0));
  put(static_cast<int>(__float_as_uint(__shfl_sync(kAll, static_cast<float>(v), 4))));
}

// y[0..8): counters that every thread of every block updates; y[8..): 64-bit ones.
KERNEL(unit_atomics, TestArgs, 128) {
  unsigned* y = static_cast<unsigned*>(a.y);
  const unsigned id = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&y[0], id);
  atomicMin(reinterpret_cast<int*>(&y[1]), -static_cast<int>(id));
  atomicMax(&y[2], id);
  atomicOr(&y[3], 1u << id % 32);
  atomicInc(&y[4], 99u);
  atomicXor(&y[5], id);
  for (unsigned expected = 0, seen;; expected = seen) {
    seen = atomicCAS(&y[6], expected, expected + 2);
    if (seen == expected) break;
  }
  atomicSub(&y[7], 1u);
  atomicAdd(reinterpret_cast<unsigned long long*>(&y[8]), 1ull << 33);
  SHARED(unsigned, ticket, [1]);
  if (threadIdx.x == 0) ticket[0] = 0;
  __syncthreads();
  atomicAdd(&ticket[0], threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) atomicExch(&y[10 + blockIdx.x], ticket[0]);
}

// x: A[16][16] then B[8][16] (B transposed), bf16. y: the A fragment by ldmatrix.x4 [lane][4], the B
// fragment by ldmatrix [lane][2], by .trans of B as [16][8] [lane][2], then D[16][8] = A * B.
KERNEL(unit_matrix_bf16, TestArgs, 32) {
  SHARED_ALIGNED(uint16_t, s, [640], 16);
  const uint16_t* x = static_cast<const uint16_t*>(a.x);
  uint32_t* y = static_cast<uint32_t*>(a.y);
  const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (unsigned i = lane; i < 384; i += 32) s[i] = x[i];
  // B as [16][8] behind it.
  for (unsigned i = lane; i < 128; i += 32) s[384 + i] = x[256 + i % 8 * 16 + i / 8];
  __syncwarp();  // everything is staged
  uint32_t fa[4], twice[4], ft[4];
  // Matrices in the order of the registers: (rows 0-7, k 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15).
  ldmatrix_x4(fa, &s[lane % 16 * 16 + lane / 16 * 8]);
  // B's two matrices, and the same two again.
  ldmatrix_x4(twice, &s[256 + lane % 8 * 16 + lane / 8 % 2 * 8]);
  ldmatrix_x4_trans(ft, &s[384 + lane % 16 * 8]);
  const uint32_t fb[2] = {twice[0], twice[1]};
  float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mma_bf16(d, fa, fb);
  for (int i = 0; i < 4; ++i) y[lane * 4 + i] = fa[i];
  for (int i = 0; i < 2; ++i) y[128 + lane * 2 + i] = fb[i];
  for (int i = 0; i < 2; ++i) y[192 + lane * 2 + i] = ft[i];
  float* out = reinterpret_cast<float*>(y + 256);
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

// x: A[32][8], B[8][16] floats. y: D[32][16] = 1 + tf32(A) * tf32(B), by a 2x2 tile of mma.
KERNEL(unit_matrix_tf32, TestArgs, 32) {
  const float* A = static_cast<const float*>(a.x);
  const float* B = A + 32 * 8;
  float* y = static_cast<float*>(a.y);
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t fa[2][4], fb[2][2];
  float d[2][2][4];
  for (int i = 0; i < 2; ++i) {
    for (int r = 0; r < 4; ++r) {
      fa[i][r] = to_tf32(A[(i * 16 + g + r % 2 * 8) * 8 + t + r / 2 * 4]);
    }
    for (int r = 0; r < 2; ++r) fb[i][r] = to_tf32(B[(t + r * 4) * 16 + i * 8 + g]);
  }
  for (int i = 0; i < 16; ++i) (&d[0][0][0])[i] = 1.0f;
  mma_tf32_tile(d, fa, fb);
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      for (int r = 0; r < 4; ++r) {
        y[(i * 16 + g + r / 2 * 8) * 16 + j * 8 + 2 * t + r % 2] = d[i][j][r];
      }
    }
  }
}

// y[i] = x[i] in bf16, as bits; n floats.
KERNEL(unit_bf16, TestArgs, 64) {
  for (uint64_t i = grid_start(); i < a.n; i += grid_step()) {
    const bf16 v = from_float<bf16>(static_cast<const float*>(a.x)[i]);
    static_cast<uint16_t*>(a.y)[i] = __bfloat16_as_ushort(v);
  }
}

// cp.async of 16 bytes, with zeros behind the first m of them, and of nothing. y: 32 words.
KERNEL(unit_async_copy, TestArgs, 32) {
  SHARED_ALIGNED(uint32_t, s, [32], 16);
  const uint32_t* x = static_cast<const uint32_t*>(a.x);
  const unsigned t = threadIdx.x;
  s[t] = 0;
  __syncwarp();  // the copies below land on zeros
  if (t == 0) cp_async_16_zfill(&s[0], &x[0], 16);
  if (t == 3) cp_async_16_zfill(&s[8], &x[8], static_cast<uint32_t>(a.m));
  if (t == 4) cp_async_16_zfill(&s[12], nullptr, 0);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();  // every lane has waited for its copies
  static_cast<uint32_t*>(a.y)[t] = s[t];
}
