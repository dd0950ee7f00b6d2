// Collectives of a warp. Each is a macro that adds its place in the source.
#pragma once
#include <cstring>
#include <type_traits>

#include "simt/core.hpp"

namespace simt {

inline unsigned lane() { return threadIdx.x & 31u; }

struct ShuffleOperand {
  uint64_t in;
  uint64_t out;
  unsigned from;
};
// A lane outside the mask gives an undefined value: all bits set, NaN as a float.
SIMT_UNCHECKED inline void combine_shuffle(void* const* operands, uint32_t mask) {
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    auto* o = static_cast<ShuffleOperand*>(operands[__builtin_ctz(left)]);
    o->out = mask >> o->from & 1u ? static_cast<ShuffleOperand*>(operands[o->from])->in : ~0ull;
  }
}
template <class T> inline T shuffle(Site site, uint32_t mask, T value, unsigned from) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a register or two");
  ShuffleOperand o{0, 0, from};
  memcpy(&o.in, &value, sizeof value);
  meet(Op::Shuffle, mask, &o, combine_shuffle, site);
  memcpy(&value, &o.out, sizeof value);
  return value;
}
template <class T> inline T shfl(Site s, uint32_t mask, T v, int from, int width = 32) {
  const unsigned w = static_cast<unsigned>(width);
  return shuffle(s, mask, v, (lane() & ~(w - 1)) | (static_cast<unsigned>(from) & (w - 1)));
}
template <class T> inline T shfl_up(Site s, uint32_t mask, T v, unsigned delta, int width = 32) {
  const unsigned within = lane() & (static_cast<unsigned>(width) - 1);
  return shuffle(s, mask, v, within >= delta ? lane() - delta : lane());
}
template <class T> inline T shfl_down(Site s, uint32_t mask, T v, unsigned delta, int width = 32) {
  const unsigned w = static_cast<unsigned>(width), within = lane() & (w - 1);
  return shuffle(s, mask, v, delta < w && within + delta < w ? lane() + delta : lane());
}
template <class T> inline T shfl_xor(Site s, uint32_t mask, T v, int bits, int width = 32) {
  const unsigned last = lane() | (static_cast<unsigned>(width) - 1);
  const unsigned from = lane() ^ static_cast<unsigned>(bits);
  return shuffle(s, mask, v, from <= last ? from : lane());
}

struct VoteOperand {
  bool in;
  uint32_t out;
};
SIMT_UNCHECKED inline void combine_vote(void* const* operands, uint32_t mask) {
  uint32_t votes = 0;
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    const int l = __builtin_ctz(left);
    votes |= static_cast<uint32_t>(static_cast<VoteOperand*>(operands[l])->in) << l;
  }
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    static_cast<VoteOperand*>(operands[__builtin_ctz(left)])->out = votes;
  }
}
inline uint32_t ballot(Site site, uint32_t mask, bool predicate) {
  VoteOperand o{predicate, 0};
  meet(Op::Vote, mask, &o, combine_vote, site);
  return o.out;
}

struct MatchOperand {
  uint64_t in;
  uint32_t out;
};
SIMT_UNCHECKED inline void combine_match(void* const* operands, uint32_t mask) {
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    auto* o = static_cast<MatchOperand*>(operands[__builtin_ctz(left)]);
    o->out = 0;
    for (uint32_t other = mask; other != 0; other &= other - 1) {
      const int l = __builtin_ctz(other);
      o->out |= static_cast<uint32_t>(static_cast<MatchOperand*>(operands[l])->in == o->in) << l;
    }
  }
}
template <class T> inline unsigned match_any(Site site, uint32_t mask, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "32 or 64 bits");
  MatchOperand o{0, 0};
  memcpy(&o.in, &value, sizeof value);
  meet(Op::Match, mask, &o, combine_match, site);
  return o.out;
}
template <class T> inline unsigned match_all(Site site, uint32_t mask, T value, int* all) {
  const unsigned same = match_any(site, mask, value);
  *all = same == mask;
  return same == mask ? mask : 0;
}

enum class Fold { Add, Min, Max, And, Or, Xor };
template <class T> struct ReduceOperand {
  T in, out;
};
template <Fold F, class T> SIMT_UNCHECKED inline T fold(T a, T b) {
  if (F == Fold::Min) return a < b ? a : b;
  if (F == Fold::Max) return a > b ? a : b;
  const unsigned x = static_cast<unsigned>(a), y = static_cast<unsigned>(b);
  return static_cast<T>(F == Fold::Add   ? x + y
                        : F == Fold::And ? (x & y)
                        : F == Fold::Or  ? (x | y)
                                         : (x ^ y));
}
template <Fold F, class T>
SIMT_UNCHECKED inline void combine_reduce(void* const* operands, uint32_t mask) {
  using Operand = ReduceOperand<T>;
  T all = static_cast<Operand*>(operands[__builtin_ctz(mask)])->in;
  for (uint32_t left = mask & (mask - 1); left != 0; left &= left - 1) {
    all = fold<F>(all, static_cast<Operand*>(operands[__builtin_ctz(left)])->in);
  }
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    static_cast<Operand*>(operands[__builtin_ctz(left)])->out = all;
  }
}
template <Fold F, class T> inline T reduce(Site site, uint32_t mask, T value) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4, "int or unsigned, as in CUDA");
  ReduceOperand<T> o{value, value};
  meet(Op::Reduce, mask, &o, combine_reduce<F, T>, site);
  return o.out;
}

inline void combine_nothing(void* const*, uint32_t) {}
inline void sync_warp(Site site, uint32_t mask = ~0u) {
  meet(Op::SyncWarp, mask, nullptr, combine_nothing, site);
}

}  // namespace simt

#define __syncwarp(...) simt::sync_warp(SIMT_HERE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) simt::shfl(SIMT_HERE, __VA_ARGS__)
#define __shfl_up_sync(...) simt::shfl_up(SIMT_HERE, __VA_ARGS__)
#define __shfl_down_sync(...) simt::shfl_down(SIMT_HERE, __VA_ARGS__)
#define __shfl_xor_sync(...) simt::shfl_xor(SIMT_HERE, __VA_ARGS__)
#define __ballot_sync(mask, p) simt::ballot(SIMT_HERE, mask, (p) != 0)
#define __any_sync(mask, p) (static_cast<int>(simt::ballot(SIMT_HERE, mask, (p) != 0) != 0))
#define __all_sync(mask, p) (static_cast<int>(simt::ballot(SIMT_HERE, mask, (p) == 0) == 0))
#define __activemask() simt::live_lanes()
#define __match_any_sync(...) simt::match_any(SIMT_HERE, __VA_ARGS__)
#define __match_all_sync(...) simt::match_all(SIMT_HERE, __VA_ARGS__)
#define __reduce_add_sync(...) simt::reduce<simt::Fold::Add>(SIMT_HERE, __VA_ARGS__)
#define __reduce_min_sync(...) simt::reduce<simt::Fold::Min>(SIMT_HERE, __VA_ARGS__)
#define __reduce_max_sync(...) simt::reduce<simt::Fold::Max>(SIMT_HERE, __VA_ARGS__)
#define __reduce_and_sync(...) simt::reduce<simt::Fold::And>(SIMT_HERE, __VA_ARGS__)
#define __reduce_or_sync(...) simt::reduce<simt::Fold::Or>(SIMT_HERE, __VA_ARGS__)
#define __reduce_xor_sync(...) simt::reduce<simt::Fold::Xor>(SIMT_HERE, __VA_ARGS__)
