// Shapes and shared-memory layout of a convolution's tiles.
//
// A block owns ROWS x COLUMNS of the product and walks the reduction in steps of 128 bytes (64
// bf16, 32 floats). An operand's part of a step lies in shared memory in one of two layouts:
//
//   ALONG   the reduction runs along memory: one line per row (or column) of the tile, 128 bytes
//   ACROSS  the reduction runs across memory: one line per reduction index, the tile's rows in it
//
// Lines are cut into 16-byte chunks, and a chunk's place is its index XOR a function of its line
// (at most 8 values), so that the readers below meet no bank conflict:
//   ldmatrix reads the same chunk of 8 consecutive lines          -> line & 7
//   single floats of 4 consecutive lines, 8 adjacent floats each  -> (line & 3) * 2   (f32 ACROSS)
//
// Dynamic shared memory of a block, bytes:
//   [0, stages*STAGE)      stages: A then B; two or three, as the launch says (mainloop.cuh)
//   [rows_at, + ROWS*16)   the rows' pixels (PixelRow), or the weight gradient's pixels (PixelPair)
// and, once the main loop is over:
//   [0, ROWS*PITCH*4)      the product in float (product_at)
//   [.., + 4*COLUMNS*4)    coefficients of the columns (epilogue.cuh)
#pragma once
#include "include/conv/geometry.cuh"

namespace conv {

enum class Layout { ALONG, ACROSS };

constexpr uint32_t CHUNK = 16;         // bytes
constexpr uint32_t STEP_BYTES = 128;   // of the reduction, per step
constexpr uint32_t MOST_STAGES = 3;

// What a tile row reads and writes.
struct PixelRow {
  int32_t y;             // source pixel at tap offset 0, NOWHERE beyond the last row
  int32_t x;
  uint32_t source;       // index of the image's first source pixel
  uint32_t destination;  // index of the destination pixel
};
static_assert(sizeof(PixelRow) == 16, "read as one 16-byte word");

// ROWS x COLUMNS by WARPS_M x WARPS_N warps, elements of type T in shared memory.
template <class T_, uint32_t ROWS_, uint32_t COLUMNS_, uint32_t WARPS_M_, uint32_t WARPS_N_>
struct Tile {
  using T = T_;
  static constexpr uint32_t ROWS = ROWS_;
  static constexpr uint32_t COLUMNS = COLUMNS_;
  static constexpr uint32_t WARPS_M = WARPS_M_;
  static constexpr uint32_t WARPS_N = WARPS_N_;
  static constexpr uint32_t THREADS = 32 * WARPS_M * WARPS_N;
  static constexpr uint32_t STEP = STEP_BYTES / sizeof(T);     // reduction elements of a step
  static constexpr uint32_t PER_CHUNK = CHUNK / sizeof(T);     // elements of a chunk
  static constexpr uint32_t A_BYTES = ROWS * STEP_BYTES;
  static constexpr uint32_t STAGE_BYTES = (ROWS + COLUMNS) * STEP_BYTES;
  // Floats between rows of the product in shared memory; +8 spreads an mma's 8 rows over the banks.
  static constexpr uint32_t PITCH = COLUMNS + 8;
  static constexpr uint32_t PRODUCT_BYTES = ROWS * PITCH * 4;
  static constexpr uint32_t EPILOGUE_BYTES = PRODUCT_BYTES + 4 * COLUMNS * 4;
  static __host__ __device__ constexpr uint32_t rows_at(uint32_t stages) {
    const uint32_t staged = stages * STAGE_BYTES;
    return staged > EPILOGUE_BYTES ? staged : EPILOGUE_BYTES;
  }
  static __host__ __device__ constexpr uint32_t shared_bytes(uint32_t stages) {
    return rows_at(stages) + ROWS * static_cast<uint32_t>(sizeof(PixelRow));
  }
  static_assert(THREADS % STEP == 0 && ROWS % (THREADS / 8) == 0 && COLUMNS % (THREADS / 8) == 0,
                "a pass of all threads fills whole lines");
  static_assert(ROWS == COLUMNS, "A and B of an ACROSS step use the same lines");
};

// Byte offset of a chunk in an operand's part of a stage. `width`: rows (or columns) of the tile.
template <Layout L, class T>
__host__ __device__ constexpr uint32_t chunk_at(uint32_t width, uint32_t line, uint32_t chunk) {
  const uint32_t turn =
      L == Layout::ACROSS && sizeof(T) == 4 ? (line & 3u) * 2u : line & 7u;
  const uint32_t line_bytes = L == Layout::ALONG ? STEP_BYTES : width * sizeof(T);
  return line * line_bytes + (chunk ^ turn) * CHUNK;
}

// Byte offset of element `at` of a line.
template <Layout L, class T>
__host__ __device__ constexpr uint32_t element_at(uint32_t width, uint32_t line, uint32_t at) {
  constexpr uint32_t n = CHUNK / sizeof(T);
  return chunk_at<L, T>(width, line, at / n) + at % n * static_cast<uint32_t>(sizeof(T));
}

// Float of a column in a row of the product, or of coefficients: the two halves of every second
// group of 32 columns change places four by four, so that eight threads that read eight adjacent
// columns each, 16 bytes at a time, meet no bank conflict.
__host__ __device__ constexpr uint32_t column_at(uint32_t column) {
  return column ^ (column >> 3 & 4u);
}
template <class Tile>
__host__ __device__ constexpr uint32_t product_at(uint32_t row, uint32_t column) {
  return row * Tile::PITCH + column_at(column);
}

// The tiles of all passes; src/device/gpu/conv/plan.rs knows sides, shared bytes and blocks of a
// multiprocessor.
//
// Large: 128 threads, warp tiles of 64x64. A step moves 96 KB through shared memory (64 KB to the
// registers, 32 KB from global), 768 clocks at 128 bytes a clock; with twice the warps at 64x32 it
// would be 128 KB, 1024 clocks, more than the 806 in which mma.sync can multiply what came (about
// 1300 bf16 products a clock of an H100's multiprocessor). At most 255 registers a thread, so two blocks of
// a multiprocessor run at once, as many as their shared memory allows.
// LargeExact: no mma, and its 8x8 sums a thread want 256 threads.
template <class T> using Large = Tile<T, 128, 128, 2, 2>;
using LargeExact = Tile<float, 128, 128, 2, 4>;
template <class T> using Small = Tile<T, 64, 64, 2, 2>;
template <class Tile> constexpr bool asked(uint32_t two_stages, uint32_t three_stages) {
  return Tile::shared_bytes(2) == two_stages && Tile::shared_bytes(3) == three_stages;
}
static_assert(asked<Large<float>>(73728, 100352) && asked<Large<bf16>>(73728, 100352) &&
                  asked<LargeExact>(73728, 100352) && asked<Small<float>>(33792, 50176) &&
                  asked<Small<bf16>>(33792, 50176),
              "src/device/gpu/conv asks for this much dynamic shared memory");

#ifdef U2PL_SIMT
namespace check {
// Every chunk of an operand has a place of its own, and the readers' chunks lie in other banks.
template <Layout L, class T> constexpr bool places(uint32_t width) {
  bool taken[1024] = {};
  const uint32_t lines = L == Layout::ALONG ? width : STEP_BYTES / sizeof(T);
  const uint32_t chunks = L == Layout::ALONG ? 8 : width * sizeof(T) / CHUNK;
  for (uint32_t line = 0; line < lines; ++line)
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      const uint32_t at = chunk_at<L, T>(width, line, chunk) / CHUNK;
      if (at >= lines * chunks || taken[at]) return false;
      taken[at] = true;
    }
  for (uint32_t line = 0; line < lines; line += 8)
    for (uint32_t chunk = 0; chunk < chunks; chunk += 2) {
      uint32_t banks = 0;
      for (uint32_t i = 0; i < 8; ++i) {
        const bool floats = L == Layout::ACROSS && sizeof(T) == 4;
        const uint32_t at = floats ? chunk_at<L, T>(width, line + i % 4, chunk + i / 4)
                                   : chunk_at<L, T>(width, line + i, chunk);
        banks |= 1u << (at / CHUNK % 8);
      }
      if (banks != 255) return false;
    }
  return true;
}
static_assert(places<Layout::ALONG, float>(128) && places<Layout::ALONG, float>(64), "ALONG f32");
static_assert(places<Layout::ALONG, bf16>(128) && places<Layout::ALONG, bf16>(64), "ALONG bf16");
static_assert(places<Layout::ACROSS, float>(128) && places<Layout::ACROSS, float>(64), "ACROSS f32");
static_assert(places<Layout::ACROSS, bf16>(128) && places<Layout::ACROSS, bf16>(64), "ACROSS bf16");

// Banks that a phase of `threads` accesses of `floats` each (16 bytes: 8 threads, 8 bytes: 16, 4
// bytes: 32) meets, each once. `at(t)`: the float where thread t's access starts.
template <class At> constexpr bool apart(uint32_t threads, uint32_t floats, At at) {
  uint32_t banks = 0;
  for (uint32_t t = 0; t < threads; ++t)
    for (uint32_t i = 0; i < floats; ++i) banks |= 1u << ((at(t) + i) % 32);
  return banks == 0xFFFFFFFFu;
}
// The product's writers and readers: an mma's fragments, eight columns a thread (the stores to
// global memory, `Keep`), four columns a thread (`join`, exact products), one column a thread (the
// moments), and 16 columns of two rows (exact products).
template <class Tile> constexpr bool product_apart() {
  for (uint32_t column = 0; column < Tile::COLUMNS; column += 8)
    for (uint32_t row = 0; row < 8; row += 4)
      if (!apart(16, 2, [=](uint32_t t) {
            return product_at<Tile>(row + t / 4, column + t % 4 * 2);
          }))
        return false;
  for (uint32_t half = 0; half < 8; half += 4)
    for (uint32_t first = 0; first < 2 * Tile::COLUMNS; first += 64)
      if (!apart(8, 4, [=](uint32_t t) {
            const uint32_t at = first + t * 8;
            return product_at<Tile>(at / Tile::COLUMNS, at % Tile::COLUMNS + half);
          }))
        return false;
  for (uint32_t first = 0; first < Tile::COLUMNS; first += 32)
    if (!apart(8, 4, [=](uint32_t t) { return product_at<Tile>(1, first + t * 4); }) ||
        !apart(32, 1, [=](uint32_t t) { return product_at<Tile>(1, first + t); }) ||
        !apart(32, 1, [=](uint32_t t) {
          return product_at<Tile>(1 + t / 16 * 2, first + t % 16);
        }))
      return false;
  return true;
}
static_assert(product_apart<Large<bf16>>() && product_apart<Small<bf16>>(),
              "accesses to the product in shared memory share a bank");
}  // namespace check
#endif

}  // namespace conv
