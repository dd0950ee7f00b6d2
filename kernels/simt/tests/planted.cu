// Tests of the tests: small correct kernels, and copies of them with one planted bug each.
// tests/planted.rs asserts that every bug is reported and that the correct ones pass. None of this
// is in a fatbin.
#include "simt/tests/args.cuh"

enum class Bug {
  None,
  NoTrailingBarrier,
  DivergentBarrier,
  ExitBeforeBarrier,
  TwoBarriers,
  ExitedLane,
  DivergedLane,
  NotInMask,
  DifferentMasks,
  DifferentCollectives,
  WrongWait,
  NoWait,
  NoCommit,
  NoBarrierAfterWait,
  OffByOne,
  SwappedArguments,
  NullWrite,
  Misaligned,
  NoSyncwarp,
  UnwrittenShared,
  StaticOverrun,
  DynamicOverrun,
  StaticTooLarge,
  BothTooLarge,
  HalfWarpMma,
  MisalignedRow,
  BlockOrder,
  Spin,
  Recursion,
};

// y[row] = sum of x[row][0..m), one block, n rows. Warps, then the warps' sums.
template <Bug B> __device__ void row_sums(const TestArgs& a) {
  SHARED(float, partial, [4]);
  const float* x = static_cast<const float*>(a.x);
  float* y = static_cast<float*>(a.y);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (uint64_t row = 0; row < a.n; ++row) {
    float s = 0.0f;
    for (uint64_t i = threadIdx.x; i < a.m; i += blockDim.x) s += x[row * a.m + i];
    if (B == Bug::ExitedLane && lane >= 24) return;
    if (B == Bug::DivergedLane) {
      if (lane < 16) s += __shfl_xor_sync(0xFFFFFFFFu, s, 1);
    } else if (B == Bug::NotInMask) {
      s += __shfl_xor_sync(0x0000FFFFu, s, 1);
    } else if (B == Bug::DifferentMasks) {
      s += __shfl_xor_sync(lane < 16 ? 0xFFFFFFFFu : 0xFFFFFFFEu, s, 1);
    } else if (B == Bug::DifferentCollectives && lane == 3) {
      s += __ballot_sync(0xFFFFFFFFu, s > 0.0f);
    }
    for (int d = 16; d > 0; d /= 2) s += __shfl_down_sync(0xFFFFFFFFu, s, d);
    if (lane == 0) partial[warp] = s;
    if (B == Bug::ExitBeforeBarrier && row + 1 == a.n && warp != 0) return;
    if (B == Bug::TwoBarriers && warp == 0) {
      __syncthreads();  // `partial` is written before it is read
    } else if (B != Bug::DivergentBarrier || lane == 0) {
      __syncthreads();  // `partial` is written before it is read
    }
    if (threadIdx.x == 0) y[row] = partial[0] + partial[1] + partial[2] + partial[3];
    if (B != Bug::NoTrailingBarrier) __syncthreads();  // it is read before the next row's writes
  }
}
KERNEL(planted_row_sums, TestArgs, 128) { row_sums<Bug::None>(a); }
KERNEL(planted_no_trailing_barrier, TestArgs, 128) { row_sums<Bug::NoTrailingBarrier>(a); }
KERNEL(planted_divergent_barrier, TestArgs, 128) { row_sums<Bug::DivergentBarrier>(a); }
KERNEL(planted_exit_before_barrier, TestArgs, 128) { row_sums<Bug::ExitBeforeBarrier>(a); }
KERNEL(planted_two_barriers, TestArgs, 128) { row_sums<Bug::TwoBarriers>(a); }
KERNEL(planted_exited_lane, TestArgs, 128) { row_sums<Bug::ExitedLane>(a); }
KERNEL(planted_diverged_lane, TestArgs, 128) { row_sums<Bug::DivergedLane>(a); }
KERNEL(planted_not_in_mask, TestArgs, 128) { row_sums<Bug::NotInMask>(a); }
KERNEL(planted_different_masks, TestArgs, 128) { row_sums<Bug::DifferentMasks>(a); }
KERNEL(planted_different_collectives, TestArgs, 128) { row_sums<Bug::DifferentCollectives>(a); }

// y = x reversed within each tile of 512 floats, n tiles; the next tile loads while this is stored.
template <Bug B> __device__ void staged_copy(const TestArgs& a) {
  SHARED_ALIGNED(float, tiles, [2][512], 16);
  const float* x = static_cast<const float*>(a.x);
  float* y = static_cast<float*>(a.y);
  const unsigned mine = threadIdx.x * 4;
  cp_async_16_zfill(&tiles[0][mine], x + mine, 16);
  if (B != Bug::NoCommit) cp_async_commit();
  for (uint64_t t = 0; t < a.n; ++t) {
    if (t + 1 < a.n) cp_async_16_zfill(&tiles[(t + 1) % 2][mine], x + (t + 1) * 512 + mine, 16);
    // An empty group behind the last tile, so that the count stays right.
    if (B != Bug::NoCommit) cp_async_commit();
    if (B == Bug::WrongWait) {
      cp_async_wait<2>();
    } else if (B != Bug::NoWait) {
      cp_async_wait<1>();
    }
    if (B != Bug::NoBarrierAfterWait) __syncthreads();  // the others' copies are there
    for (int i = 0; i < 4; ++i) y[t * 512 + mine + i] = tiles[t % 2][511 - mine - i];
    __syncthreads();  // read before the tile after the next overwrites it
  }
}
KERNEL(planted_staged_copy, TestArgs, 128) { staged_copy<Bug::None>(a); }
KERNEL(planted_wrong_wait, TestArgs, 128) { staged_copy<Bug::WrongWait>(a); }
KERNEL(planted_no_wait, TestArgs, 128) { staged_copy<Bug::NoWait>(a); }
KERNEL(planted_no_commit, TestArgs, 128) { staged_copy<Bug::NoCommit>(a); }
KERNEL(planted_no_barrier_after_wait, TestArgs, 128) { staged_copy<Bug::NoBarrierAfterWait>(a); }

// y[r][c] = 2 x[r][c], n rows of m floats.
template <Bug B> __device__ void twice(const TestArgs& a) {
  const float* x = static_cast<const float*>(a.x);
  // Null for every count of rows, which nvcc cannot know: it drops a store to a null it sees.
  float* y = B == Bug::NullWrite ? reinterpret_cast<float*>(a.n >> 40) : static_cast<float*>(a.y);
  const uint64_t rows = B == Bug::SwappedArguments ? a.m : a.n;
  const uint64_t total = rows * a.m + (B == Bug::OffByOne ? 1 : 0);
  if (B == Bug::Misaligned) {
    for (uint64_t i = grid_start(); 4 * i + 5 < total; i += grid_step()) {
      float4 v = *reinterpret_cast<const float4*>(x + 4 * i + 1);
      y[4 * i] = 2.0f * (v.x + v.y + v.z + v.w);  // all four, or nvcc loads one
    }
    return;
  }
  for (uint64_t i = grid_start(); i < total; i += grid_step()) y[i] = 2.0f * x[i];
}
KERNEL(planted_twice, TestArgs, 64) { twice<Bug::None>(a); }
KERNEL(planted_off_by_one, TestArgs, 64) { twice<Bug::OffByOne>(a); }
KERNEL(planted_swapped_arguments, TestArgs, 64) { twice<Bug::SwappedArguments>(a); }
KERNEL(planted_null_write, TestArgs, 64) { twice<Bug::NullWrite>(a); }
KERNEL(planted_misaligned, TestArgs, 64) { twice<Bug::Misaligned>(a); }

// y[i] = x[i] + x[i ^ 1], exchanged through shared memory within a warp; one block, n rounds of 64.
template <Bug B> __device__ void neighbours(const TestArgs& a) {
  SHARED(float, cell, [65]);
  const float* x = static_cast<const float*>(a.x);
  float* y = static_cast<float*>(a.y);
  const unsigned t = threadIdx.x;
  for (uint64_t round = 0; round < a.n; ++round) {
    cell[t] = x[round * 64 + t];
    if (B == Bug::StaticOverrun && t == 63) cell[t + 2] = 0.0f;
    if (B != Bug::NoSyncwarp) __syncwarp();  // the neighbour has written its cell
    const unsigned other = B == Bug::UnwrittenShared && t == 63 ? 64 : t ^ 1u;
    y[round * 64 + t] = cell[t] + cell[other];
    __syncwarp();  // the neighbour has read this cell
  }
}
KERNEL(planted_neighbours, TestArgs, 64) { neighbours<Bug::None>(a); }
KERNEL(planted_no_syncwarp, TestArgs, 64) { neighbours<Bug::NoSyncwarp>(a); }
KERNEL(planted_unwritten_shared, TestArgs, 64) { neighbours<Bug::UnwrittenShared>(a); }
KERNEL(planted_static_overrun, TestArgs, 64) { neighbours<Bug::StaticOverrun>(a); }

// y[i] = x[i] through n floats of dynamic shared memory.
template <Bug B> __device__ void dynamic_copy(const TestArgs& a) {
  DYNAMIC_SHARED(memory);
  float* cells = reinterpret_cast<float*>(memory);
  const uint64_t n = a.n + (B == Bug::DynamicOverrun ? a.m : 0);
  for (uint64_t i = threadIdx.x; i < n; i += blockDim.x) cells[i] = static_cast<const float*>(a.x)[i % a.n];
  __syncthreads();  // nothing crosses threads here; it stands for what would
  for (uint64_t i = threadIdx.x; i < a.n; i += blockDim.x) static_cast<float*>(a.y)[i] = cells[i];
}
KERNEL(planted_dynamic_copy, TestArgs, 64) { dynamic_copy<Bug::None>(a); }
KERNEL(planted_dynamic_overrun, TestArgs, 64) { dynamic_copy<Bug::DynamicOverrun>(a); }

KERNEL(planted_static_too_large, TestArgs, 32) {
  SHARED(float, large, [12289]);
  large[threadIdx.x] = static_cast<float>(a.n);
  __syncwarp();  // the neighbour has written its cell
  static_cast<float*>(a.y)[threadIdx.x] = large[threadIdx.x ^ 1u];
}
KERNEL(planted_both_too_large, TestArgs, 32) {
  SHARED(float, large, [12000]);
  large[threadIdx.x] = static_cast<float>(a.n);
  __syncwarp();  // the neighbour has written its cell
  static_cast<float*>(a.y)[threadIdx.x] = large[threadIdx.x ^ 1u];
}

// One mma by half a warp; an ldmatrix of rows that are no multiple of 16 bytes apart.
KERNEL(planted_half_warp_mma, TestArgs, 32) {
  float d[4] = {};
  const uint32_t fragment[4] = {}, other[2] = {};
  if (threadIdx.x < 16) mma_bf16(d, fragment, other);
  static_cast<float*>(a.y)[threadIdx.x] = d[0];
}
KERNEL(planted_misaligned_row, TestArgs, 32) {
  SHARED_ALIGNED(unsigned char, rows, [1024], 16);
  for (unsigned i = threadIdx.x; i < 1024; i += 32) rows[i] = 0;
  __syncwarp();  // the rows are written
  uint32_t r[4];
  ldmatrix_x4(r, rows + threadIdx.x % 32 * 24);
  static_cast<uint32_t*>(a.y)[threadIdx.x] = r[0];
}

// Counts on an order of the blocks: y[b] = y[b-1] + 1.
KERNEL(planted_block_order, TestArgs, 32) {
  int* y = static_cast<int*>(a.y);
  if (threadIdx.x == 0) y[blockIdx.x] = blockIdx.x == 0 ? 1 : y[blockIdx.x - 1] + 1;
}
// Waits for another block, which may run only after this one.
KERNEL(planted_spin, TestArgs, 32) {
  int* flag = static_cast<int*>(a.y);
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) {
      while (atomicAdd(flag, 0) == 0) {
      }
    } else {
      atomicExch(flag, 1);
    }
  }
}
#ifdef U2PL_SIMT  // the PTX machine has no stack, and refuses code that calls
// Local arrays without end.
__device__ __noinline__ float deep(volatile float* above, uint64_t n) {
  volatile float here[256];
  here[n % 256] = above[0] + 1.0f;
  return n == 0 ? here[0] : deep(here, n - 1) + here[1];
}
KERNEL(planted_recursion, TestArgs, 32) {
  volatile float start[1] = {0.0f};
  static_cast<float*>(a.y)[threadIdx.x] = deep(start, a.n);
}
#endif
