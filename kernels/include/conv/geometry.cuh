// Index maths of convolution: which source pixel a tap of a destination position reads.
//
// One axis of a forward convolution, of one phase of a data gradient, and of a weight gradient are
// the same thing: positions v = 0..count, taps i = 0..taps, and
//
//   source pixel       = v*scale + offset + i*offset_step      (a hit when in 0..source)
//   destination pixel  = start + v*step
//   tap in the weights = first_tap + i*tap_step
//
//   forward           scale = stride  offset = -padding   offset_step = dilation   step = 1
//   data gradient     one phase per residue of the destination pixel modulo the stride: the taps
//                     that can hit it are an arithmetic progression, and dy's pixels are adjacent:
//                     scale = 1  offset_step < 0  step = stride
//
// so that no kernel knows of strides: src/device/gpu/conv/axis.rs works the phases out. Everything
// here is constexpr; the checks at the end run in the host build, over every small case.
#pragma once
#include "include/conv/args.cuh"

namespace conv {

// A row beyond the last position reads from here: no tap brings it back into a map.
constexpr int32_t NOWHERE = INT32_MIN / 2;

__host__ __device__ constexpr uint32_t div_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// Whether a (signed) source pixel lies in 0..size: one unsigned compare.
__host__ __device__ constexpr bool inside(int32_t at, uint32_t size) {
  return static_cast<uint32_t>(at) < size;
}

// n / divisor for n < 2^31 by one high product: q = (2n*m >> 32) >> shift, where
// shift = ceil(log2 divisor) and m = ceil(2^(31+shift) / divisor), which is under 2^32. The error of
// n*m / 2^(31+shift) is below n / 2^(31+shift) < 1 / divisor: it never reaches the next integer.
struct FastDiv {
  uint32_t divisor;
  uint32_t multiplier;
  uint32_t shift;
  __host__ __device__ constexpr explicit FastDiv(uint32_t d) : divisor(d), multiplier(0), shift(0) {
    while ((1u << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + d - 1) / d);
  }
  __host__ __device__ constexpr uint32_t quotient(uint32_t n) const {
    const uint64_t product = static_cast<uint64_t>(2 * n) * multiplier;
    return static_cast<uint32_t>(product >> 32) >> shift;
  }
};

// A position of the destination, unravelled: image, row and column (not yet pixels).
struct Position {
  uint32_t image;
  uint32_t y;
  uint32_t x;
};
__host__ __device__ constexpr Position unravel(uint32_t index, const FastDiv& width,
                                               const FastDiv& height) {
  const uint32_t line = width.quotient(index);
  const uint32_t image = height.quotient(line);
  return Position{image, line - image * height.divisor, index - line * width.divisor};
}

// Positions of one axis that a tile of consecutive indices covers: one or two closed intervals.
struct Cover {
  uint32_t first0, last0;  // always
  uint32_t first1, last1;  // the same again where there is one only
};
// Rows covered by positions a..b (b the last): of one image, or the end of one and the start of
// the next, or all.
__host__ __device__ constexpr Cover rows_of(const Position& a, const Position& b, uint32_t count) {
  if (a.image == b.image) return Cover{a.y, b.y, a.y, b.y};
  if (a.image + 1 == b.image) return Cover{a.y, count - 1, 0, b.y};
  return Cover{0, count - 1, 0, count - 1};
}
__host__ __device__ constexpr Cover columns_of(const Position& a, const Position& b,
                                               uint32_t count) {
  if (a.image == b.image && a.y == b.y) return Cover{a.x, b.x, a.x, b.x};
  if (a.image == b.image && a.y + 1 == b.y) return Cover{a.x, count - 1, 0, b.x};
  return Cover{0, count - 1, 0, count - 1};
}

// Source offset of tap i.
__host__ __device__ constexpr int32_t tap_offset(const ConvAxis& axis, uint32_t i) {
  return axis.offset + static_cast<int32_t>(i) * axis.offset_step;
}

// Whether tap i may hit the source from some position first..last. Never a false no; a false yes
// only where the stride exceeds the source.
__host__ __device__ constexpr bool may_hit(const ConvAxis& axis, uint32_t i, uint32_t first,
                                           uint32_t last) {
  const int32_t offset = tap_offset(axis, i);
  return static_cast<int32_t>(first) * axis.scale + offset < static_cast<int32_t>(axis.source) &&
         static_cast<int32_t>(last) * axis.scale + offset >= 0;
}
__host__ __device__ constexpr bool may_hit(const ConvAxis& axis, uint32_t i, const Cover& c) {
  return may_hit(axis, i, c.first0, c.last0) || may_hit(axis, i, c.first1, c.last1);
}

// Positions whose tap i hits, a range: [first, end). scale > 0.
struct Range {
  uint32_t first, end;
};
__host__ __device__ constexpr Range hits(const ConvAxis& axis, uint32_t i) {
  const int32_t offset = tap_offset(axis, i);
  const int32_t room = static_cast<int32_t>(axis.source) - offset;  // v*scale < room
  const int32_t low = offset < 0 ? (-offset + axis.scale - 1) / axis.scale : 0;
  const int32_t high = room <= 0 ? 0 : (room + axis.scale - 1) / axis.scale;
  const int32_t count = static_cast<int32_t>(axis.count);
  const int32_t first = low < count ? low : count;
  const int32_t end = high < count ? high : count;
  return Range{static_cast<uint32_t>(first), static_cast<uint32_t>(end > first ? end : first)};
}

// The taps of a tile that do not read padding only, in row-major order.
struct TapWalk {
  uint32_t i, j;
  // Moves to the first tap at or after (i, j) that may hit; i == y.taps at the end.
  __host__ __device__ constexpr void settle(const ConvAxis& y, const ConvAxis& x, const Cover& rows,
                                            const Cover& columns) {
    for (; i < y.taps; ++i, j = 0) {
      if (!may_hit(y, i, rows)) continue;
      for (; j < x.taps; ++j) {
        if (may_hit(x, j, columns)) return;
      }
    }
  }
};
__host__ __device__ constexpr uint32_t live_taps(const ConvAxis& axis, const Cover& cover) {
  uint32_t live = 0;
  for (uint32_t i = 0; i < axis.taps; ++i) live += may_hit(axis, i, cover);
  return live;
}

// Part `part` of `parts` of a reduction over `length` items, in whole steps: [first, end).
__host__ __device__ constexpr Range split(uint32_t length, uint32_t step, uint32_t part,
                                          uint32_t parts) {
  const uint64_t steps = div_up(length, step);
  const uint32_t first = static_cast<uint32_t>(steps * part / parts) * step;
  const uint32_t end = static_cast<uint32_t>(steps * (part + 1) / parts) * step;
  return Range{first < length ? first : length, end < length ? end : length};
}

#ifdef U2PL_SIMT
namespace check {

constexpr bool division() {
  constexpr uint32_t most = 0x7FFFFFFFu;
  for (uint32_t d = 1; d < 70; ++d) {
    const FastDiv f(d);
    for (uint32_t n = 0; n < 300; ++n) {
      if (f.quotient(n) != n / d || f.quotient(most - n) != (most - n) / d) return false;
    }
  }
  const FastDiv large(0x40000001u), largest(most);
  return large.quotient(0x40000000u) == 0 && large.quotient(0x40000001u) == 1 &&
         largest.quotient(most - 1) == 0 && largest.quotient(most) == 1;
}
static_assert(division(), "FastDiv is not a division");

constexpr ConvAxis axis(uint32_t count, uint32_t source, uint32_t taps, int32_t stride,
                        int32_t padding, int32_t dilation) {
  return ConvAxis{count, 0, 1, count, source, taps, 0, 1, stride, -padding, dilation, 0};
}

// `hits` and `may_hit` against every position, one axis at a time.
constexpr bool ranges() {
  for (uint32_t source = 1; source < 7; ++source)
    for (int32_t stride = 1; stride < 4; ++stride)
      for (int32_t padding = 0; padding < 4; ++padding)
        for (int32_t dilation = -9; dilation < 10; dilation += 3) {
          const ConvAxis a = axis(6, source, 3, stride, padding, dilation);
          for (uint32_t i = 0; i < 3; ++i) {
            const Range r = hits(a, i);
            bool any = false;
            for (uint32_t v = 0; v < a.count; ++v) {
              const bool hit =
                  inside(static_cast<int32_t>(v) * stride + tap_offset(a, i), source);
              if (hit != (v >= r.first && v < r.end)) return false;
              any = any || hit;
            }
            if (any && !may_hit(a, i, 0, a.count - 1)) return false;
          }
        }
  return true;
}
static_assert(ranges(), "hits or may_hit disagrees with a loop over the positions");

// Every position of every run of consecutive indices lies in the run's cover.
constexpr bool covered(const Cover& c, uint32_t v) {
  return (v >= c.first0 && v <= c.last0) || (v >= c.first1 && v <= c.last1);
}
constexpr bool covers() {
  const FastDiv width(3), height(2);
  for (uint32_t a = 0; a < 24; ++a)
    for (uint32_t b = a; b < 24; ++b) {
      const Position p = unravel(a, width, height), q = unravel(b, width, height);
      const Cover rows = rows_of(p, q, 2), columns = columns_of(p, q, 3);
      for (uint32_t i = a; i <= b; ++i) {
        const Position at = unravel(i, width, height);
        if ((at.image * 2 + at.y) * 3 + at.x != i) return false;
        if (!covered(rows, at.y) || !covered(columns, at.x)) return false;
      }
    }
  return true;
}
static_assert(covers(), "a tile's cover leaves out a position");

// The walk visits live_taps(y)*live_taps(x) taps.
constexpr bool walks() {
  for (int32_t dilation = 1; dilation < 8; ++dilation)
    for (uint32_t first = 0; first < 5; ++first) {
      const ConvAxis y = axis(5, 5, 3, 1, dilation, dilation), x = axis(4, 4, 3, 1, 3, 3);
      const Cover rows{first, first, first, first}, columns{0, 3, 0, 3};
      uint32_t seen = 0;
      TapWalk walk{0, 0};
      for (walk.settle(y, x, rows, columns); walk.i < y.taps; ++seen) {
        if (!may_hit(y, walk.i, rows) || !may_hit(x, walk.j, columns)) return false;
        ++walk.j;
        walk.settle(y, x, rows, columns);
      }
      if (seen != live_taps(y, rows) * live_taps(x, columns)) return false;
    }
  return true;
}
static_assert(walks(), "a tile's walk misses a tap");

constexpr bool splits() {
  for (uint32_t length = 0; length < 40; ++length)
    for (uint32_t parts = 1; parts < 9; ++parts) {
      uint32_t at = 0;
      for (uint32_t p = 0; p < parts; ++p) {
        const Range r = split(length, 4, p, parts);
        if (r.first != at || r.end < r.first) return false;
        at = r.end;
      }
      if (at != length) return false;
    }
  return true;
}
static_assert(splits(), "the parts of a reduction are not the whole");

}  // namespace check
#endif

}  // namespace conv
