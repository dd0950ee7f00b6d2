// Integer atomics on global and shared memory: the host's, relaxed, for blocks run on several
// host threads. Float atomics are left out: their sum depends on the order.
#pragma once
#include <type_traits>

#include "simt/core.hpp"

namespace simt {
template <class T> struct Same {
  using type = T;
};
// The second operand converts to the first's type, as with CUDA's overloads.
template <class T> using SameAs = typename Same<T>::type;

template <class T> inline void check_atomic(const T* address) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> ||
                    std::is_same_v<T, long long> || std::is_same_v<T, unsigned long long>,
                "CUDA's atomics take int, unsigned and (unsigned) long long; uint64_t is unsigned "
                "long on Linux: cast the pointer");
  count_atomic(address, sizeof(T));
}
// Read-modify-write by compare and swap.
template <class T, class F> inline T atomic_update(T* address, F next) {
  check_atomic(address);
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(address, &old, next(old), false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}
}  // namespace simt

template <class T> inline T atomicAdd(T* p, simt::SameAs<T> v) {
  simt::check_atomic(p);
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T> inline T atomicSub(T* p, simt::SameAs<T> v) {
  simt::check_atomic(p);
  return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED);
}
template <class T> inline T atomicAnd(T* p, simt::SameAs<T> v) {
  simt::check_atomic(p);
  return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
}
template <class T> inline T atomicOr(T* p, simt::SameAs<T> v) {
  simt::check_atomic(p);
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T> inline T atomicXor(T* p, simt::SameAs<T> v) {
  simt::check_atomic(p);
  return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
}
template <class T> inline T atomicExch(T* p, simt::SameAs<T> v) {
  simt::check_atomic(p);
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T> inline T atomicMin(T* p, simt::SameAs<T> v) {
  return simt::atomic_update(p, [v](T old) { return old < v ? old : v; });
}
template <class T> inline T atomicMax(T* p, simt::SameAs<T> v) {
  return simt::atomic_update(p, [v](T old) { return old > v ? old : v; });
}
inline unsigned atomicInc(unsigned* p, unsigned v) {
  return simt::atomic_update(p, [v](unsigned old) { return old >= v ? 0u : old + 1u; });
}
inline unsigned atomicDec(unsigned* p, unsigned v) {
  return simt::atomic_update(
      p, [v](unsigned old) { return old == 0 || old > v ? v : old - 1u; });
}
template <class T> inline T atomicCAS(T* p, simt::SameAs<T> compare, simt::SameAs<T> v) {
  simt::check_atomic(p);
  __atomic_compare_exchange_n(p, &compare, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}
