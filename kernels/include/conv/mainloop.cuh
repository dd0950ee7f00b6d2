// The main loop: one or two steps of the reduction in flight while another is multiplied.
//
// A loader owns the block's place in the reduction: steps() that this block takes; load<PART>(stage),
// PART 0 and 1, which starts copying the next step's A and B; advance(), which moves on. The copies
// are issued between the products of the step before, not ahead of them all. What a loader copies
// with cp.async is waited for here; what it stores itself is published by the same barrier. Another
// architecture's loop (TMA and wgmma) would take the place of this file and of the loaders;
// geometry, schedule and epilogue stay.
//
// `stages` comes with the launch: three where the multiprocessor's shared memory holds as many
// blocks of them as registers allow (sm_90: two of 98 KiB), two where it holds more blocks that way
// (sm_80, 164 KiB: two of 72 KiB, where one of 98 KiB would fit). The image that a driver picks or
// makes from PTX does not tell the host which that is, so it is no matter of __CUDA_ARCH__. No bit
// depends on it.
#pragma once
#include "include/conv/tile.cuh"
#include "include/ptx/async_copy.cuh"

namespace conv {

template <class Tile, class Loader, class Math>
__device__ __forceinline__ void main_loop(Loader& loader, Math& math, unsigned char* smem,
                                          uint32_t stages) {
  math.clear();
  const uint32_t steps = loader.steps();
  const uint32_t ahead = stages - 1;
#pragma unroll 1
  for (uint32_t s = 0; s < ahead; ++s) {
    // Race prevented: pixels that other threads worked out for this step.
    if constexpr (Loader::SHARES) __syncthreads();
    if (s < steps) {
      loader.template load<0>(smem + s * Tile::STAGE_BYTES);
      loader.template load<1>(smem + s * Tile::STAGE_BYTES);
      loader.advance();
    }
    cp_async_commit();  // empty groups too: the count below is of groups
  }
  const uint32_t end = stages * Tile::STAGE_BYTES;
  uint32_t full = 0, empty = end - Tile::STAGE_BYTES;
#pragma unroll 1
  for (uint32_t s = 0; s < steps; ++s) {
    if (stages == 2) {
      cp_async_wait<0>();
    } else {
      cp_async_wait<MOST_STAGES - 2>();
    }
    // Race prevented: this step's copies of other threads are not there yet, and other threads may
    // still read the stage that the next load overwrites.
    __syncthreads();
    const bool more = s + ahead < steps;
    math.step(smem + full, [&](auto part) {
      if (more) loader.template load<decltype(part)::INDEX>(smem + empty);
    });
    if (more) loader.advance();
    cp_async_commit();
    full = full + Tile::STAGE_BYTES == end ? 0 : full + Tile::STAGE_BYTES;
    empty = empty + Tile::STAGE_BYTES == end ? 0 : empty + Tile::STAGE_BYTES;
  }
  cp_async_wait<0>();
  // Race prevented: the product overwrites stages that other threads still read.
  __syncthreads();
  math.store(reinterpret_cast<float*>(smem));
  // Race prevented: the epilogue reads values of other threads.
  __syncthreads();
}

}  // namespace conv
