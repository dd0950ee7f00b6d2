// The main loop: STAGES-1 steps of the reduction in flight while one is multiplied.
//
// A loader owns the block's place in the reduction: steps() that this block takes, and load(stage),
// which starts copying the next step and moves on. What it copies with cp.async is waited for here;
// what it stores itself is published by the same barrier. Another architecture's loop (TMA and
// wgmma) would take the place of this file and of the loaders; geometry, schedule and epilogue stay.
#pragma once
#include "include/conv/tile.cuh"
#include "include/ptx/async_copy.cuh"

namespace conv {

// `rows`: those of the tile that exist; warps that own none of them do not multiply.
template <class Tile, class Loader, class Math>
__device__ __forceinline__ void main_loop(Loader& loader, Math& math, unsigned char* smem,
                                          uint32_t rows) {
  math.clear();
  const bool live = math.first_row() < rows;
  const uint32_t steps = loader.steps();
#pragma unroll
  for (uint32_t s = 0; s < STAGES - 1; ++s) {
    if (s < steps) loader.load(smem + s * Tile::STAGE_BYTES);
    cp_async_commit();  // empty groups too: the count below is of groups
  }
  uint32_t full = 0, empty = STAGES - 1;
#pragma unroll 1
  for (uint32_t s = 0; s < steps; ++s) {
    cp_async_wait<STAGES - 2>();
    // Race prevented: this step's copies of other threads are not there yet, and other threads may
    // still read the stage that the next load overwrites.
    __syncthreads();
    if (s + STAGES - 1 < steps) loader.load(smem + empty * Tile::STAGE_BYTES);
    cp_async_commit();
    if (live) math.step(smem + full * Tile::STAGE_BYTES);
    full = full + 1 == STAGES ? 0 : full + 1;
    empty = empty + 1 == STAGES ? 0 : empty + 1;
  }
  cp_async_wait<0>();
  // Race prevented: the product overwrites stages that other threads still read.
  __syncthreads();
  math.store(reinterpret_cast<float*>(smem));
  // Race prevented: the epilogue reads values of other threads.
  __syncthreads();
}

}  // namespace conv
