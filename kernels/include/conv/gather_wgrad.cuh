// Loaders of the weight gradient: a reduction over pixels of dy, dw[k, tap, c] = sum of
// dy[pixel, k] * x[pixel at tap, c]. Both operands are ACROSS.
//
// WgradVectorLoader: the tile's columns are channels of one tap, and only the pixels whose tap
// hits the image (a rectangle) are visited; 16-byte cp.async. WgradAnyLoader: the columns are the
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

template <class Tile> struct WgradVectorLoader {
  using T = typename Tile::T;
  static constexpr uint32_t CHUNKS = Tile::COLUMNS / Tile::PER_CHUNK;  // of a line
  static constexpr uint32_t LINE_STEP = Tile::THREADS / CHUNKS;
  static constexpr uint32_t PASSES = Tile::STEP / LINE_STEP;
  static_assert(Tile::STEP % LINE_STEP == 0, "all threads fill whole lines");

  const ConvWgradArgs& a;
  Range ys, xs;          // positions whose tap hits
  FastDiv width, height;
  int32_t dy, dx;        // the tap's offsets
  uint32_t pixel, end;   // of this part, counted within the rectangle
  const T* grad;         // dy at this thread's chunk
  const T* source;       // x likewise
  bool grad_live, source_live;
  bool pointwise;        // pixel i of dy meets pixel i of x: no index maths

  __device__ __forceinline__ WgradVectorLoader(const ConvWgradArgs& args, const WgradPlace& p)
      : a(args),
        ys(hits(args.rows, p.tap / args.columns.taps)),
        xs(hits(args.columns, p.tap % args.columns.taps)),
        width(max(1u, xs.end - xs.first)),
        height(max(1u, ys.end - ys.first)),
        dy(tap_offset(args.rows, p.tap / args.columns.taps)),
        dx(tap_offset(args.columns, p.tap % args.columns.taps)) {
    const uint32_t count = a.x.n * (ys.end - ys.first) * (xs.end - xs.first);
    const Range part = split(count, Tile::STEP, p.part, a.parts);
    pixel = part.first;
    end = part.end;
    const uint32_t at = threadIdx.x % CHUNKS * Tile::PER_CHUNK;
    grad = static_cast<const T*>(a.dy.data) + p.row + at;
    source = static_cast<const T*>(a.x.data) + p.column + at;
    grad_live = p.row + at < a.dy.c;
    source_live = p.column + at < a.x.c;
    pointwise = one_to_one(a.rows) && one_to_one(a.columns);
  }
  __device__ __forceinline__ uint32_t steps() const { return div_up(end - pixel, Tile::STEP); }
  __device__ __forceinline__ void load(unsigned char* stage) {
    const uint32_t chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      const uint32_t line = threadIdx.x / CHUNKS + i * LINE_STEP;
      const bool real = pixel + line < end;
      uint32_t out = pixel + line, from = out;
      if (!pointwise) {
        const Position at = unravel(out, width, height);
        const uint32_t y = at.y + ys.first, x = at.x + xs.first;
        out = (at.image * a.rows.count + y) * a.columns.count + x;
        from = (at.image * a.rows.source + y * a.rows.scale + dy) * a.columns.source +
               x * a.columns.scale + dx;
      }
      const bool hit_a = real && grad_live, hit_b = real && source_live;
      unsigned char* to = stage + chunk_at<Layout::ACROSS, T>(Tile::COLUMNS, line, chunk);
      cp_async_16_zfill(to, hit_a ? grad + out * a.dy.ld : a.dy.data, hit_a ? CHUNK : 0);
      cp_async_16_zfill(to + Tile::A_BYTES, hit_b ? source + from * a.x.ld : a.x.data,
                        hit_b ? CHUNK : 0);
    }
    pixel += Tile::STEP;
  }
};

template <class Tile> struct WgradAnyLoader {
  using T = typename Tile::T;
  static constexpr uint32_t LINE_STEP = Tile::THREADS / Tile::COLUMNS;
  static_assert(Tile::THREADS % Tile::COLUMNS == 0, "a thread keeps its column");

  const ConvWgradArgs& a;
  FastDiv width, height;
  uint32_t pixel, end;
  int32_t dy, dx;       // offsets of this thread's tap
  const T* grad;        // dy at this thread's column
  const T* source;      // x at this thread's channel
  bool grad_live, source_live;

  __device__ __forceinline__ WgradAnyLoader(const ConvWgradArgs& args, const WgradPlace& p)
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
  __device__ __forceinline__ void load(unsigned char* stage) {
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
    pixel += Tile::STEP;
  }
};

}  // namespace conv
