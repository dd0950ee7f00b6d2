// Which tile of the product a block makes, and which part of the tile's reduction.
//
// Tiles are numbered along the columns, then down the rows. The first `whole` tiles take a block
// each. The others would leave most of the machine idle in a last wave (33 800 rows are 264 tiles
// of 128 and 8 rows more, and 264 blocks run at once), so each is cut along its reduction over
// `parts` blocks:
//
//   block     0  1  2 ... whole-1 | whole ...         whole+parts-1 | ...
//   tile      0  1  2 ... whole-1 | whole     (part 0, 1, ... parts-1) | whole+1 ...
//
// Blocks of a cut tile leave their sums in the workspace; the last to arrive adds the parts in
// order (`join`) and finishes the tile like any other. Where a tile is cut is a function of the
// shapes (src/device/gpu/conv/plan.rs), so no bit depends on the schedule or on the number of
// multiprocessors. On tensor cores bits still depend on the architecture (multiply.cuh).
#pragma once
#include "include/conv/tile.cuh"

namespace conv {

// A block's work.
struct Work {
  uint32_t tile;
  uint32_t cut;    // index among the tiles that are cut
  uint32_t part;   // of `parts`
  uint32_t parts;  // 1: the whole tile
};

__host__ __device__ constexpr Work work_of(uint32_t block, uint32_t whole, uint32_t parts) {
  if (block < whole) return Work{block, 0, 0, 1};
  const uint32_t cut = (block - whole) / parts;
  return Work{whole + cut, cut, (block - whole) % parts, parts};
}

// Steps of a part of a tile that has `steps` of them: [first, end), perhaps none.
struct Steps {
  uint32_t first, end;
};
__host__ __device__ constexpr Steps steps_of(const Work& work, uint32_t steps) {
  const uint64_t n = steps;
  return Steps{static_cast<uint32_t>(n * work.part / work.parts),
               static_cast<uint32_t>(n * (work.part + 1) / work.parts)};
}

// Brings the parts of a cut tile together. True in the block that finishes the tile, whose product
// is then the whole sum of its first `rows` rows; all threads of the block call it and agree.
//
// partials: [cut tile, part, ROWS, COLUMNS]; tickets: one a cut tile, zero before and after.
template <class Tile>
__device__ __forceinline__ bool join(const Work& work, float* partials, uint32_t* tickets,
                                     uint32_t rows, float* product) {
  if (work.parts == 1) return true;
  constexpr uint32_t GROUPS = Tile::COLUMNS / 4;
  constexpr uint64_t SIZE = static_cast<uint64_t>(Tile::ROWS) * Tile::COLUMNS;
  float* first = partials + static_cast<uint64_t>(work.cut) * work.parts * SIZE;
  float* own = first + work.part * SIZE;
#pragma unroll 2
  for (uint32_t i = threadIdx.x; i < rows * GROUPS; i += Tile::THREADS) {
    const float* from = product + i / GROUPS * Tile::PITCH + i % GROUPS * 4;
    *reinterpret_cast<float4*>(own + i * 4) = *reinterpret_cast<const float4*>(from);
  }
  __threadfence();
  // Race prevented: the ticket says that this block's sums are there, those of all its threads.
  __syncthreads();
  const bool taken = threadIdx.x == 0 && atomicAdd(tickets + work.cut, 1u) + 1 == work.parts;
  // Race prevented: thread 0 alone knows whether the other blocks' sums are there.
  if (__syncthreads_or(taken) == 0) return false;
  __threadfence();
  if (threadIdx.x == 0) tickets[work.cut] = 0;  // nobody else is left
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < rows * GROUPS; i += Tile::THREADS) {
    float4 sum = *reinterpret_cast<const float4*>(first + i * 4);
#pragma unroll 4
    for (uint32_t p = 1; p < work.parts; ++p) {
      const float4 v = *reinterpret_cast<const float4*>(first + p * SIZE + i * 4);
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    }
    *reinterpret_cast<float4*>(product + i / GROUPS * Tile::PITCH + i % GROUPS * 4) = sum;
  }
  // Race prevented: the epilogue reads sums of other threads.
  __syncthreads();
  return true;
}

#ifdef U2PL_SIMT
namespace check {
// Every step of every tile is some block's, once, and a tile's parts are in order.
constexpr bool schedules() {
  for (uint32_t tiles = 1; tiles < 6; ++tiles)
    for (uint32_t whole = 0; whole <= tiles; ++whole)
      for (uint32_t parts = 1; parts < 5; ++parts)
        for (uint32_t steps = 0; steps < 7; ++steps) {
          const uint32_t blocks = whole + (tiles - whole) * parts;
          uint32_t tile = 0, step = 0;
          for (uint32_t b = 0; b < blocks; ++b) {
            const Work w = work_of(b, whole, parts);
            const Steps s = steps_of(w, steps);
            if (w.tile != tile || s.first != step || s.end < s.first) return false;
            if (w.parts > 1 && w.cut != w.tile - whole) return false;
            step = s.end;
            if (w.part + 1 == w.parts) {
              if (step != steps) return false;
              ++tile;
              step = 0;
            }
          }
          if (tile != tiles) return false;
        }
  return true;
}
static_assert(schedules(), "the blocks' parts are not the whole product");
}  // namespace check
#endif

}  // namespace conv
