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
  static constexpr bool SHARES = false;  // nothing but what a barrier published before
  static constexpr uint32_t PASSES = Tile::A_BYTES / CHUNK / Tile::THREADS;  // chunks of a thread
  static constexpr uint32_t LINE_STEP = Tile::THREADS / 8;  // ALONG lines between them
  static constexpr Layout LB = weights_layout(PASS);
  // Chunks of a line of B, and lines between a thread's.
  static constexpr uint32_t B_CHUNKS =
      LB == Layout::ALONG ? 8 : Tile::COLUMNS / Tile::PER_CHUNK;
  static constexpr uint32_t B_LINE_STEP = Tile::THREADS / B_CHUNKS;
  static_assert(Tile::THREADS % B_CHUNKS == 0, "a thread keeps its chunk of every line");
  static_assert(chunk_at<Layout::ALONG, T>(Tile::ROWS, LINE_STEP, 1) ==
                        chunk_at<Layout::ALONG, T>(Tile::ROWS, 0, 1) + LINE_STEP * STEP_BYTES &&
                    chunk_at<LB, T>(Tile::COLUMNS, B_LINE_STEP, 1) ==
                        chunk_at<LB, T>(Tile::COLUMNS, 0, 1) + B_LINE_STEP * B_CHUNKS * CHUNK,
                "a thread's chunks lie a constant apart");

  const ConvArgs& a;
  const PixelRow* table;
  const Place& place;
  TapWalk walk{0, 0};
  Steps range;                   // of the reduction, that this block takes
  uint32_t channel = 0;          // of this step
  uint32_t pixel[PASSES];        // that this thread's rows read at this tap; 0 where there is none
  uint32_t live = 0;             // bit i: row i's pixel exists
  uint32_t columns = 0;          // ALONG, bit i: row i of this thread's weights exists; ACROSS: rows
  const unsigned char* source;   // this thread's chunk of pixel 0, at `channel`
  const unsigned char* weights;  // this thread's first chunk of the tap, at `channel`
  uint32_t pixel_bytes, row_bytes;  // between pixels of src, and rows of the weights
  uint32_t to_a, to_b;           // this thread's first chunk in a stage

  __device__ __forceinline__ VectorLoader(const ConvArgs& args, const PixelRow* rows,
                                          const Place& at, const Work& work)
      : a(args), table(rows), place(at) {
    const uint32_t of_tap = div_up(a.src.c, Tile::STEP);
    range = steps_of(work, live_taps(a.y, place.y) * live_taps(a.x, place.x) * of_tap);
    walk.settle(a.y, a.x, place.y, place.x);
    for (uint32_t taps = range.first / of_tap; taps > 0; --taps) next_tap();
    channel = range.first % of_tap * Tile::STEP;
    pixel_bytes = static_cast<uint32_t>(a.src.ld * sizeof(T));
    row_bytes = a.kernel_h * a.kernel_w * a.inner * static_cast<uint32_t>(sizeof(T));
    const uint32_t line = threadIdx.x / 8, b_line = threadIdx.x / B_CHUNKS;
    to_a = chunk_at<Layout::ALONG, T>(Tile::ROWS, line, threadIdx.x % 8);
    to_b = Tile::A_BYTES + chunk_at<LB, T>(Tile::COLUMNS, b_line, threadIdx.x % B_CHUNKS);
    if constexpr (LB == Layout::ALONG) {
#pragma unroll
      for (uint32_t i = 0; i < PASSES; ++i) {
        columns |= static_cast<uint32_t>(place.column + b_line + i * B_LINE_STEP < a.outer) << i;
      }
    } else if (place.column + threadIdx.x % B_CHUNKS * Tile::PER_CHUNK < a.inner) {
      columns = a.outer - b_line;
    }
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
    live = 0;
#pragma unroll
    for (uint32_t i = 0; i < PASSES; ++i) {
      const PixelRow row = table[threadIdx.x / 8 + i * LINE_STEP];
      const int32_t y = row.y + dy, x = row.x + dx;
      const bool hit = inside(y, a.y.source) && inside(x, a.x.source);
      pixel[i] = hit ? row.source + static_cast<uint32_t>(y) * a.x.source + x : 0;
      live |= static_cast<uint32_t>(hit) << i;
    }
    const uint32_t along = channel + threadIdx.x % 8 * Tile::PER_CHUNK;
    source = reinterpret_cast<const unsigned char*>(static_cast<const T*>(a.src.data) + along);
    const uint64_t taps = static_cast<uint64_t>(a.kernel_h) * a.kernel_w;
    const uint64_t tap = weight_tap(a, walk.i, walk.j);
    const T* w = static_cast<const T*>(a.weights);
    if constexpr (LB == Layout::ALONG) {
      const uint32_t column = place.column + threadIdx.x / 8;
      w += (column * taps + tap) * a.inner + along;
    } else {
      const uint32_t column = place.column + threadIdx.x % B_CHUNKS * Tile::PER_CHUNK;
      w += ((channel + threadIdx.x / B_CHUNKS) * taps + tap) * a.inner + column;
    }
    weights = reinterpret_cast<const unsigned char*>(w);
  }
  template <int PART> __device__ __forceinline__ void load(unsigned char* stage) const {
    if constexpr (PART == 0) {
      const uint32_t there = left() > 0 ? live : 0;
#pragma unroll
      for (uint32_t i = 0; i < PASSES; ++i) {
        cp_async_16_zfill(stage + to_a + i * (LINE_STEP * STEP_BYTES),
                          source + static_cast<uint64_t>(pixel[i]) * pixel_bytes,
                          (there >> i & 1) != 0 ? CHUNK : 0);
      }
    } else {
      load_weights(stage + to_b);
    }
  }
  // Channels from this thread's chunk of the step on, none where negative.
  __device__ __forceinline__ int32_t left() const {
    return static_cast<int32_t>(a.src.c) -
           static_cast<int32_t>(channel + threadIdx.x % 8 * Tile::PER_CHUNK);
  }
  __device__ __forceinline__ void load_weights(unsigned char* to) const {
    if constexpr (LB == Layout::ALONG) {
      const uint32_t there = left() > 0 ? columns : 0;
#pragma unroll
      for (uint32_t i = 0; i < PASSES; ++i) {
        cp_async_16_zfill(to + i * (B_LINE_STEP * B_CHUNKS * CHUNK),
                          weights + static_cast<uint64_t>(row_bytes) * (i * B_LINE_STEP),
                          (there >> i & 1) != 0 ? CHUNK : 0);
      }
    } else {
      const int32_t outer_left = static_cast<int32_t>(columns) - static_cast<int32_t>(channel);
#pragma unroll
      for (uint32_t i = 0; i < PASSES; ++i) {
        cp_async_16_zfill(to + i * (B_LINE_STEP * B_CHUNKS * CHUNK),
                          weights + static_cast<uint64_t>(row_bytes) * (i * B_LINE_STEP),
                          static_cast<int32_t>(i * B_LINE_STEP) < outer_left ? CHUNK : 0);
      }
    }
  }
  __device__ __forceinline__ void advance() {
    channel += Tile::STEP;
    source += STEP_BYTES;
    weights += LB == Layout::ALONG ? STEP_BYTES : static_cast<uint64_t>(row_bytes) * Tile::STEP;
    if (channel >= a.src.c) {
      channel = 0;
      next_tap();
      enter_tap();
    }
  }
};

template <class Tile, Pass PASS> struct AnyLoader {
  using T = typename Tile::T;
  static constexpr bool SHARES = false;
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
  __device__ __forceinline__ void advance() { first += Tile::STEP; }
  template <int PART> __device__ __forceinline__ void load(unsigned char* stage) const {
    constexpr uint32_t STEP = Tile::STEP;
    const uint32_t at = threadIdx.x % STEP;
    const Term t = term(first + at);
    if constexpr (PART == 1) return load_weights(stage + Tile::A_BYTES, t);
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
