// Loaders of forward and data gradient: A = source pixels at a tap, B = weights of that tap.
//
//   forward        A[row, c] = x[pixel(row) at tap, c]    B[k, c] = w[k, tap, c]    B is ALONG
//   data gradient  A[row, k] = dy[pixel(row) at tap, k]   B[k, c] = w[k, tap, c]    B is ACROSS
//
// VectorLoader copies 16 bytes at a time with cp.async and goes tap by tap, leaving out the taps
// that read only padding from all of the tile's pixels; a row's address changes with the tap only,
// so a 1x1 convolution pays nothing for there being taps. AnyLoader takes any channel count and
// any alignment: (tap, channel) is one flat index, and elements go one by one.
#pragma once
#include "include/conv/args.cuh"
#include "include/conv/schedule.cuh"
#include "include/conv/tile.cuh"
#include "include/ptx/async_copy.cuh"

namespace conv {

enum class Pass { FORWARD, DATA_GRADIENT };

__host__ __device__ constexpr Layout weights_layout(Pass pass) {
  return pass == Pass::FORWARD ? Layout::ALONG : Layout::ACROSS;
}

// A block's tile of positions and columns.
struct Place {
  uint32_t row;        // first position
  uint32_t rows;       // of the tile, at least 1
  uint32_t column;     // first column
  Cover y, x;          // what the positions cover
};

// Fills the table of the tile's rows; a barrier must follow before it is read.
template <class Tile>
__device__ __forceinline__ Place place_tile(const ConvArgs& a, uint32_t tile_row,
                                            uint32_t tile_column, PixelRow* table) {
  const FastDiv width(a.x.count), height(a.y.count);
  const uint32_t total = a.dst.n * a.y.count * a.x.count;
  Place p;
  p.row = tile_row * Tile::ROWS;
  p.rows = min(Tile::ROWS, total - p.row);
  p.column = tile_column * Tile::COLUMNS;
  const Position first = unravel(p.row, width, height);
  const Position last = unravel(p.row + p.rows - 1, width, height);
  p.y = rows_of(first, last, a.y.count);
  p.x = columns_of(first, last, a.x.count);
  for (uint32_t i = threadIdx.x; i < Tile::ROWS; i += Tile::THREADS) {
    const Position at = unravel(p.row + i, width, height);
    PixelRow r;
    r.y = i < p.rows ? static_cast<int32_t>(at.y) * a.y.scale : NOWHERE;
    r.x = static_cast<int32_t>(at.x) * a.x.scale;
    r.source = at.image * a.y.source * a.x.source;
    r.destination = (at.image * a.y.size + a.y.start + at.y * a.y.step) * a.x.size + a.x.start +
                    at.x * a.x.step;
    table[i] = r;
  }
  return p;
}

// Tap of the weights, in their order.
__device__ __forceinline__ uint32_t weight_tap(const ConvArgs& a, uint32_t i, uint32_t j) {
  return (a.y.first_tap + i * a.y.tap_step) * a.kernel_w + a.x.first_tap + j * a.x.tap_step;
}

template <class Tile, Pass PASS> struct VectorLoader {
  using T = typename Tile::T;
  static constexpr uint32_t PASSES = Tile::A_BYTES / CHUNK / Tile::THREADS;  // chunks of a thread
  static constexpr uint32_t LINE_STEP = Tile::THREADS / 8;  // ALONG lines between them
  static constexpr Layout LB = weights_layout(PASS);
  // ACROSS: chunks of a line, and lines between a thread's.
  static constexpr uint32_t B_CHUNKS = Tile::COLUMNS / Tile::PER_CHUNK;
  static constexpr uint32_t B_LINE_STEP = Tile::THREADS / B_CHUNKS;
  static_assert(Tile::THREADS % B_CHUNKS == 0, "a thread keeps its chunk of every line");

  const ConvArgs& a;
  const PixelRow* table;
  const Place& place;
  TapWalk walk{0, 0};
  Steps range;                // of the reduction, that this block takes
  uint32_t channel = 0;       // of this step
  const T* source[PASSES];    // this thread's chunk of channel 0 of each row, at this tap
  uint32_t live = 0;          // bit i: row i's pixel exists
  const T* weights = nullptr; // this thread's first chunk at this tap

  __device__ __forceinline__ VectorLoader(const ConvArgs& args, const PixelRow* rows,
                                          const Place& at, const Work& work)
      : a(args), table(rows), place(at) {
    const uint32_t of_tap = div_up(a.src.c, Tile::STEP);
    range = steps_of(work, live_taps(a.y, place.y) * live_taps(a.x, place.x) * of_tap);
    walk.settle(a.y, a.x, place.y, place.x);
    for (uint32_t taps = range.first / of_tap; taps > 0; --taps) next_tap();
    channel = range.first % of_tap * Tile::STEP;
    enter_tap();
  }
  __device__ __forceinline__ uint32_t steps() const { return range.end - range.first; }
  __device__ __forceinline__ void next_tap() {
    ++walk.j;
    walk.settle(a.y, a.x, place.y, place.x);
  }
  __device__ __forceinline__ void enter_tap() {
    if (walk.i >= a.y.taps) return;
    const int32_t dy = tap_offset(a.y, walk.i), dx = tap_offset(a.x, walk.j);
    const T* src = static_cast<const T*>(a.src.data);
    live = 0;
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      const PixelRow row = table[threadIdx.x / 8 + i * LINE_STEP];
      const int32_t y = row.y + dy, x = row.x + dx;
      const bool hit = inside(y, a.y.source) && inside(x, a.x.source);
      const uint32_t pixel = row.source + static_cast<uint32_t>(y) * a.x.source + x;
      source[i] = src + (hit ? pixel * a.src.ld : 0) + threadIdx.x % 8 * Tile::PER_CHUNK;
      live |= static_cast<uint32_t>(hit) << i;
    }
    const uint64_t taps = static_cast<uint64_t>(a.kernel_h) * a.kernel_w;
    const uint64_t tap = weight_tap(a, walk.i, walk.j);
    const T* w = static_cast<const T*>(a.weights);
    if constexpr (LB == Layout::ALONG) {
      const uint32_t column = place.column + threadIdx.x / 8;
      weights = w + (column * taps + tap) * a.inner + threadIdx.x % 8 * Tile::PER_CHUNK;
    } else {
      const uint32_t column = place.column + threadIdx.x % B_CHUNKS * Tile::PER_CHUNK;
      weights = w + (threadIdx.x / B_CHUNKS * taps + tap) * a.inner + column;
    }
  }
  __device__ __forceinline__ void load(unsigned char* stage) {
    const uint32_t along = channel + threadIdx.x % 8 * Tile::PER_CHUNK;
    const void* any = a.src.data;  // an address for copies of zeros
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      const uint32_t line = threadIdx.x / 8 + i * LINE_STEP;
      const bool hit = (live >> i & 1) != 0 && along < a.src.c;
      unsigned char* to = stage + chunk_at<Layout::ALONG, T>(Tile::ROWS, line, threadIdx.x % 8);
      cp_async_16_zfill(to, hit ? source[i] + channel : any, hit ? CHUNK : 0);
    }
    load_weights(stage + Tile::A_BYTES, along);
    channel += Tile::STEP;
    if (channel >= a.src.c) {
      channel = 0;
      next_tap();
      enter_tap();
    }
  }
  __device__ __forceinline__ void load_weights(unsigned char* operand, uint32_t along) const {
    const uint64_t row = static_cast<uint64_t>(a.kernel_h) * a.kernel_w * a.inner;
    const void* any = a.weights;
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      if constexpr (LB == Layout::ALONG) {
        const uint32_t line = threadIdx.x / 8 + i * LINE_STEP;
        const bool hit = place.column + line < a.outer && along < a.inner;
        unsigned char* to = operand + chunk_at<LB, T>(Tile::COLUMNS, line, threadIdx.x % 8);
        cp_async_16_zfill(to, hit ? weights + i * LINE_STEP * row + channel : any,
                          hit ? CHUNK : 0);
      } else {
        const uint32_t line = threadIdx.x / B_CHUNKS + i * B_LINE_STEP;
        const uint32_t chunk = threadIdx.x % B_CHUNKS;
        const bool hit = channel + line < a.outer &&
                         place.column + chunk * Tile::PER_CHUNK < a.inner;
        unsigned char* to = operand + chunk_at<LB, T>(Tile::COLUMNS, line, chunk);
        cp_async_16_zfill(to, hit ? weights + (channel + i * B_LINE_STEP) * row : any,
                          hit ? CHUNK : 0);
      }
    }
  }
};

template <class Tile, Pass PASS> struct AnyLoader {
  using T = typename Tile::T;
  static constexpr Layout LB = weights_layout(PASS);
  static_assert(Tile::THREADS % Tile::STEP == 0 && Tile::THREADS % Tile::COLUMNS == 0,
                "a thread keeps its place in the lines");

  const ConvArgs& a;
  const PixelRow* table;
  const Place& place;
  Steps range;
  uint32_t first;  // of this step, on the flat (tap, channel) axis

  __device__ __forceinline__ AnyLoader(const ConvArgs& args, const PixelRow* rows, const Place& at,
                                       const Work& work)
      : a(args), table(rows), place(at) {
    range = steps_of(work, div_up(length(), Tile::STEP));
    first = range.first * Tile::STEP;
  }
  __device__ __forceinline__ uint32_t length() const { return a.y.taps * a.x.taps * a.src.c; }
  __device__ __forceinline__ uint32_t steps() const { return range.end - range.first; }

  struct Term {
    uint32_t i, j, channel;
    bool real;  // not beyond the last
  };
  __device__ __forceinline__ Term term(uint32_t flat) const {
    const uint32_t tap = flat / a.src.c;
    return Term{tap / a.x.taps, tap % a.x.taps, flat - tap * a.src.c, flat < length()};
  }
  // w[outer, tap, inner], both in range.
  __device__ __forceinline__ T weight(uint32_t outer, const Term& t, uint32_t inner) const {
    const uint64_t taps = static_cast<uint64_t>(a.kernel_h) * a.kernel_w;
    return static_cast<const T*>(
        a.weights)[(outer * taps + weight_tap(a, t.i, t.j)) * a.inner + inner];
  }
  __device__ __forceinline__ void load(unsigned char* stage) {
    constexpr uint32_t STEP = Tile::STEP;
    const uint32_t at = threadIdx.x % STEP;
    const Term t = term(first + at);
    const int32_t dy = tap_offset(a.y, t.i), dx = tap_offset(a.x, t.j);
    for (uint32_t line = threadIdx.x / STEP; line < Tile::ROWS; line += Tile::THREADS / STEP) {
      const PixelRow row = table[line];
      const int32_t y = row.y + dy, x = row.x + dx;
      T v = from_float<T>(0.0f);
      if (t.real && inside(y, a.y.source) && inside(x, a.x.source)) {
        const uint32_t pixel = row.source + static_cast<uint32_t>(y) * a.x.source + x;
        v = static_cast<const T*>(a.src.data)[pixel * a.src.ld + t.channel];
      }
      *reinterpret_cast<T*>(stage + element_at<Layout::ALONG, T>(Tile::ROWS, line, at)) = v;
    }
    load_weights(stage + Tile::A_BYTES, t);
    first += STEP;
  }
  __device__ __forceinline__ void load_weights(unsigned char* to, const Term& mine) const {
    constexpr uint32_t STEP = Tile::STEP, COLUMNS = Tile::COLUMNS;
    if constexpr (LB == Layout::ALONG) {
      const uint32_t at = threadIdx.x % STEP;
      for (uint32_t line = threadIdx.x / STEP; line < COLUMNS; line += Tile::THREADS / STEP) {
        T v = from_float<T>(0.0f);
        if (mine.real && place.column + line < a.outer) {
          v = weight(place.column + line, mine, mine.channel);
        }
        *reinterpret_cast<T*>(to + element_at<LB, T>(COLUMNS, line, at)) = v;
      }
    } else {
      const uint32_t at = threadIdx.x % COLUMNS;
      for (uint32_t line = threadIdx.x / COLUMNS; line < STEP; line += Tile::THREADS / COLUMNS) {
        const Term t = term(first + line);
        T v = from_float<T>(0.0f);
        if (t.real && place.column + at < a.inner) {
          v = weight(t.channel, t, place.column + at);
        }
        *reinterpret_cast<T*>(to + element_at<LB, T>(COLUMNS, line, at)) = v;
      }
    }
  }
};

}  // namespace conv
