// Switching stacks: a few instructions on x86-64, ucontext elsewhere (or with SIMT_UCONTEXT).
#pragma once
#include <cstddef>
#include <cstdint>
#if !defined(__x86_64__)
#define SIMT_UCONTEXT 1
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace simt {

#ifdef SIMT_UCONTEXT
struct Context {
  ucontext_t state;
};
inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
inline void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = bytes;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}
#else
struct Context {
  void* sp;
};
// Saves the callee-saved registers on the running stack and its pointer in *save; loads the other.
extern "C" void simt_switch_stack(void** save, void* load);
inline void switch_context(Context& from, Context& to) { simt_switch_stack(&from.sp, to.sp); }
inline void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  // Entered by `ret`: the stack pointer is then 8 below a multiple of 16, as after a call.
  auto* top = reinterpret_cast<uint64_t*>(reinterpret_cast<uintptr_t>(stack + bytes) & ~15ull);
  *--top = 0;
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  context.sp = top;
}
#endif

}  // namespace simt
