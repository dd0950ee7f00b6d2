// cp.async: 16 bytes from global to shared memory, past the registers. The copy is there only after
// cp_async_wait, for this thread; after a barrier too, for the others.
//
// On the host the destination is poisoned at once and filled at the wait, so a missing or too
// weak wait reads NaN.
#pragma once
#include "include/common.cuh"

#ifdef U2PL_SIMT

// Reads only the first `from_bytes` (0 to 16) and fills the rest with zeros; with 0 the source is
// not touched. Both addresses must be multiples of 16.
#define cp_async_16_zfill(to, from, from_bytes) \
  simt::async_copy(to, from, 16, from_bytes, SIMT_HERE)
// Ends a group: the copies since the last commit.
#define cp_async_commit() simt::async_commit(SIMT_HERE)
// cp_async_wait<N>(): waits until at most the N newest groups are under way.
#define cp_async_wait simt::AsyncWait{SIMT_HERE}.wait

#else

// .cg: through L2 only; what is copied here is read once per block.
__device__ __forceinline__ void cp_async_16_zfill(void* to, const void* from,
                                                  uint32_t from_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(from_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int NewestLeft> __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(NewestLeft) : "memory");
}

#endif
