// Loaders of the weight gradient: a reduction over pixels of dy, dw[k, tap, c] = sum of
// dy[pixel, k] * x[pixel at tap, c]. Both operands are ACROSS.
//
// WgradVectorLoader: the tile's columns are channels of one tap, and only the pixels whose tap
// hits the image (a rectangle) are visited; 16-byte cp.async. Which pixels a step visits is worked
// out once for the block, a step before their copies start, and kept in shared memory.
// WgradAnyLoader: the columns are the
// flat (tap, channel) axis, any channel count and alignment, element by element; pixels in the
// padding count as zero.
#pragma once
#include "include/conv/args.cuh"
#include "include/conv/tile.cuh"
#include "include/ptx/async_copy.cuh"

namespace conv {

// A block's tile of dw.
struct WgradPlace {
  uint32_t row;        // first k
  uint32_t column;     // first channel of the tap, or flat index
  uint32_t columns;    // in range
  uint32_t flat;       // first column in a row of dw, [R, S, C] flattened
  uint32_t tap;
  uint32_t part;
};

template <class Tile, bool FLAT>
__device__ __forceinline__ WgradPlace place_wgrad(const ConvWgradArgs& a) {
  const uint32_t taps = a.rows.taps * a.columns.taps;
  const uint32_t width = FLAT ? taps * a.x.c : a.x.c;
  const uint32_t across = div_up(width, Tile::COLUMNS), down = div_up(a.dy.c, Tile::ROWS);
  // Neighbouring blocks share pixels: columns, then taps, then rows, then parts.
  uint32_t i = blockIdx.x;
  WgradPlace p;
  p.column = i % across * Tile::COLUMNS;
  i /= across;
  p.tap = FLAT ? 0 : i % taps;
  i = FLAT ? i : i / taps;
  p.row = i % down * Tile::ROWS;
  p.part = i / down;
  p.columns = min(Tile::COLUMNS, width - p.column);
  p.flat = p.tap * a.x.c + p.column;
  return p;
}

// A pixel of the reduction: of dy, and of x at the tap.
struct alignas(8) PixelPair {
  uint32_t grad, source;
};

template <class Tile> struct WgradVectorLoader {
  using T = typename Tile::T;
  static constexpr bool SHARES = true;  // the pairs that other threads worked out
  static constexpr uint32_t CHUNKS = Tile::COLUMNS / Tile::PER_CHUNK;  // of a line
  static constexpr uint32_t LINE_STEP = Tile::THREADS / CHUNKS;
  static constexpr uint32_t PASSES = Tile::STEP / LINE_STEP;
  static_assert(Tile::STEP % LINE_STEP == 0, "all threads fill whole lines");
  static_assert(Tile::THREADS >= Tile::STEP, "a thread works out at most one pair a step");
  static_assert(2 * Tile::STEP * sizeof(PixelPair) <= Tile::ROWS * sizeof(PixelRow),
                "the pairs of two steps lie where other passes keep their rows");
  static_assert(chunk_at<Layout::ACROSS, T>(Tile::COLUMNS, LINE_STEP, 1) ==
                    chunk_at<Layout::ACROSS, T>(Tile::COLUMNS, 0, 1) + LINE_STEP * CHUNKS * CHUNK,
                "a thread's chunks lie a constant apart");

  const ConvWgradArgs& a;
  Range ys, xs;          // positions whose tap hits
  FastDiv width, height;
  int32_t dy, dx;        // the tap's offsets
  uint32_t pixel, end;   // of this part, counted within the rectangle
  PixelPair* pairs;      // of two steps: those of the step to be loaded, and of the next
  uint32_t slot = 0;     // of the step to be loaded, in pairs
  const unsigned char* grad;     // pixel 0 of dy at this thread's chunk
  const unsigned char* source;   // x likewise
  uint32_t grad_bytes, source_bytes;  // between pixels
  bool grad_live, source_live;
  uint32_t to;           // this thread's first chunk in a stage

  __device__ __forceinline__ WgradVectorLoader(const ConvWgradArgs& args, const WgradPlace& p,
                                               PixelPair* table)
      : a(args),
        ys(hits(args.rows, p.tap / args.columns.taps)),
        xs(hits(args.columns, p.tap % args.columns.taps)),
        width(max(1u, xs.end - xs.first)),
        height(max(1u, ys.end - ys.first)),
        dy(tap_offset(args.rows, p.tap / args.columns.taps)),
        dx(tap_offset(args.columns, p.tap % args.columns.taps)),
        pairs(table) {
    const uint32_t count = a.x.n * (ys.end - ys.first) * (xs.end - xs.first);
    const Range part = split(count, Tile::STEP, p.part, a.parts);
    pixel = part.first;
    end = part.end;
    const uint32_t at = threadIdx.x % CHUNKS * Tile::PER_CHUNK;
    grad = reinterpret_cast<const unsigned char*>(static_cast<const T*>(a.dy.data) + p.row + at);
    source = reinterpret_cast<const unsigned char*>(static_cast<const T*>(a.x.data) + p.column + at);
    grad_bytes = static_cast<uint32_t>(a.dy.ld * sizeof(T));
    source_bytes = static_cast<uint32_t>(a.x.ld * sizeof(T));
    grad_live = p.row + at < a.dy.c;
    source_live = p.column + at < a.x.c;
    to = chunk_at<Layout::ACROSS, T>(Tile::COLUMNS, threadIdx.x / CHUNKS, threadIdx.x % CHUNKS);
    work_out(pixel, 0);
  }
  __device__ __forceinline__ uint32_t steps() const { return div_up(end - pixel, Tile::STEP); }
  // The pairs of the step at `first`, a thread each; beyond the end they are never copied from.
  __device__ __forceinline__ void work_out(uint32_t first, uint32_t into) const {
    if (threadIdx.x >= Tile::STEP) return;
    const Position at = unravel(first + threadIdx.x, width, height);
    const uint32_t y = at.y + ys.first, x = at.x + xs.first;
    PixelPair pair;
    pair.grad = (at.image * a.rows.count + y) * a.columns.count + x;
    pair.source = (at.image * a.rows.source + y * a.rows.scale + dy) * a.columns.source +
                  x * a.columns.scale + dx;
    pairs[into + threadIdx.x] = pair;
  }
  template <int PART> __device__ __forceinline__ void load(unsigned char* stage) const {
    const uint32_t line = threadIdx.x / CHUNKS;
    const int32_t lines = static_cast<int32_t>(end) - static_cast<int32_t>(pixel + line);
    const int32_t left = (PART == 0 ? grad_live : source_live) ? lines : 0;
    // All before the first copy: a read between copies waits for them.
    uint32_t index[PASSES];
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      const PixelPair& pair = pairs[slot + line + i * LINE_STEP];
      index[i] = PART == 0 ? pair.grad : pair.source;
    }
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      const uint64_t offset =
          static_cast<uint64_t>(index[i]) * (PART == 0 ? grad_bytes : source_bytes);
      cp_async_16_zfill(stage + to + PART * Tile::A_BYTES + i * (LINE_STEP * CHUNKS * CHUNK),
                        (PART == 0 ? grad : source) + offset,
                        static_cast<int32_t>(i * LINE_STEP) < left ? CHUNK : 0);
    }
  }
  // Two steps ahead of the products: what is worked out here is read after the next barrier, and
  // what lay in its place was read before the last.
  __device__ __forceinline__ void advance() {
    pixel += Tile::STEP;
    slot ^= Tile::STEP;
    work_out(pixel, slot);
  }
};

template <class Tile> struct WgradAnyLoader {
  using T = typename Tile::T;
  static constexpr bool SHARES = false;
  static constexpr uint32_t LINE_STEP = Tile::THREADS / Tile::COLUMNS;
  static_assert(Tile::THREADS % Tile::COLUMNS == 0, "a thread keeps its column");

  const ConvWgradArgs& a;
  FastDiv width, height;
  uint32_t pixel, end;
  int32_t dy, dx;       // offsets of this thread's tap
  const T* grad;        // dy at this thread's column
  const T* source;      // x at this thread's channel
  bool grad_live, source_live;

  __device__ __forceinline__ WgradAnyLoader(const ConvWgradArgs& args, const WgradPlace& p,
                                            PixelPair*)
      : a(args), width(max(1u, args.columns.count)), height(max(1u, args.rows.count)) {
    const uint32_t count = a.x.n * a.rows.count * a.columns.count;
    const Range part = split(count, Tile::STEP, p.part, a.parts);
    pixel = part.first;
    end = part.end;
    const uint32_t at = threadIdx.x % Tile::COLUMNS;
    grad_live = p.row + at < a.dy.c;
    source_live = at < p.columns;
    const uint32_t flat = p.column + at, tap = flat / a.x.c;
    dy = tap_offset(a.rows, tap / a.columns.taps);
    dx = tap_offset(a.columns, tap % a.columns.taps);
    grad = static_cast<const T*>(a.dy.data) + p.row + at;
    source = static_cast<const T*>(a.x.data) + (flat - tap * a.x.c);
  }
  __device__ __forceinline__ uint32_t steps() const { return div_up(end - pixel, Tile::STEP); }
  __device__ __forceinline__ void advance() { pixel += Tile::STEP; }
  // Both operands at once.
  template <int PART> __device__ __forceinline__ void load(unsigned char* stage) const {
    if constexpr (PART == 1) return;
    const uint32_t at = threadIdx.x % Tile::COLUMNS;
    for (uint32_t line = threadIdx.x / Tile::COLUMNS; line < Tile::STEP; line += LINE_STEP) {
      T g = from_float<T>(0.0f), s = g;
      if (pixel + line < end) {
        const Position p = unravel(pixel + line, width, height);
        const int32_t y = static_cast<int32_t>(p.y) * a.rows.scale + dy;
        const int32_t x = static_cast<int32_t>(p.x) * a.columns.scale + dx;
        if (grad_live) g = grad[(pixel + line) * a.dy.ld];
        if (source_live && inside(y, a.rows.source) && inside(x, a.columns.source)) {
          const uint32_t from = (p.image * a.rows.source + static_cast<uint32_t>(y)) *
                                    a.columns.source + static_cast<uint32_t>(x);
          s = source[from * a.x.ld];
        }
      }
      const uint32_t where = element_at<Layout::ACROSS, T>(Tile::COLUMNS, line, at);
      *reinterpret_cast<T*>(stage + where) = g;
      *reinterpret_cast<T*>(stage + Tile::A_BYTES + where) = s;
    }
  }
};

}  // namespace conv
