// The runtime's own structures: what executes blocks on one host thread.
#pragma once
#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "simt/core.hpp"
#include "simt/fiber.hpp"

namespace simt {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxWarps = kMaxThreads / 32;
// H100: shared memory of a block, static and dynamic; and the static part alone.
constexpr uint32_t kMaxShared = 227 * 1024;
constexpr uint32_t kMaxStaticShared = 48 * 1024;
constexpr unsigned char kPoison = 0xFF;

// The C side of src/device/gpu/simt.rs.
struct Launch {
  const Kernel* kernel;
  uint32_t grid[3];
  uint32_t dynamic_shared_bytes;
  const void* args;
  uint64_t seed;
  uint32_t schedule;
  uint32_t host_threads;
  char* message;
  uint64_t message_bytes;
};
enum class Schedule : uint32_t { Sequential = 0, Uniform = 1, Pct = 2 };

// What the blocks of a launch share.
struct Run {
  const Launch& launch;
  uint64_t blocks;
  std::atomic<uint64_t> next_block{0};
  std::atomic<bool> failed{false};
  std::mutex message_lock;
};

struct AsyncCopy {
  unsigned char* to;
  const unsigned char* from;
  uint32_t bytes;
  uint32_t from_bytes;
  uint32_t group;
  Site site;
};

struct Fiber {
  Context context;
  // Where it last called into the runtime.
  Site site;
  uint32_t async_group;
  std::vector<AsyncCopy> async_copies;
};

// Lanes of a warp that meet under one mask.
struct Group {
  uint32_t mask;
  uint32_t arrived;
  Op op;
  Site site;
};

struct Warp {
  uint32_t ready;
  uint32_t exited;
  uint32_t at_barrier;
  uint32_t group_count;
  uint32_t priority;
  Group groups[32];
  void* operands[32];
};

// A range of the static shared memory in use.
struct SlotUse {
  uint32_t begin;
  uint32_t bytes;
  const char* name;
};

// The first problem of a block, before it is turned into a message.
struct Report {
  bool set;
  Site site;
  uintptr_t pc;       // of a fault: looked up in the debug information
  uintptr_t address;  // of a fault that has one: looked up in the allocations
  bool has_address;
  char text[512];
};

class Runner {
 public:
  Runner();
  ~Runner();
  Runner(const Runner&) = delete;

  // Runs blocks until there are no more or one fails.
  void run(Run& run);

  // The parts of core.hpp, on the running fiber.
  void meet(Op op, uint32_t mask, void* mine, Combine combine, Site site);
  uint32_t barrier(bool predicate, Site site);
  void* static_shared(Slot& slot, size_t bytes, size_t alignment, const char* name, Site site);
  unsigned char* dynamic_shared() const { return dynamic_; }
  uint32_t live_lanes() const { return ~warps_[current_ / 32].exited; }
  void async_copy(void* to, const void* from, uint32_t bytes, uint32_t from_bytes, Site site);
  void async_commit(Site site);
  void async_wait(uint32_t newest_left, Site site);
  void count_atomic(const void* address, size_t bytes);
  [[noreturn]] void fail(Site site, const char* format, va_list values);
  // From the signal handler: abandons the running fiber.
  [[noreturn]] void fault(int signal, uintptr_t pc, uintptr_t address, int write);
  // The fiber whose stack's guard page holds `address`, or -1.
  int stack_overflow(uintptr_t address) const;
  bool in_fiber() const { return in_fiber_; }

 private:
  bool run_block(uint64_t block);
  void begin_block(uint64_t block);
  void make_stacks(uint32_t count);
  Fiber& fiber(uint32_t thread) { return fibers_[thread]; }
  bool describe_own(uintptr_t address, char* text, size_t bytes) const;
  void report_block(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void poison_shared();
  void check_shared();
  static void enter_thread();
  void exit_thread();
  void resume_next();
  void wake(uint32_t warp, uint32_t lanes);
  void wake_with_me(uint32_t warp, uint32_t lanes);
  [[noreturn]] void stuck();
  [[noreturn]] void leave();
  void write_message();
  uint32_t pick_warp();
  uint64_t random();

  Run* run_ = nullptr;
  bool in_fiber_ = false;
  bool started_ = false;  // the block's first fiber has been entered
  Context main_;
  Schedule schedule_ = Schedule::Sequential;
  uint64_t random_state_ = 1;
  uint32_t threads_ = 0;
  uint32_t live_ = 0;
  uint32_t current_ = 0;
  uint32_t ready_warps_ = 0;
  uint32_t barrier_arrived_ = 0;
  uint32_t barrier_votes_ = 0;
  uint32_t barrier_result_ = 0;
  uint32_t atomics_ = 0;
  Site barrier_site_{};
  uint32_t barrier_first_ = 0;
  Report report_{};

  std::vector<Fiber> fibers_;
  Warp warps_[kMaxWarps];
  char* stacks_ = nullptr;
  size_t stacks_bytes_ = 0;
  char* signal_stack_ = nullptr;

  unsigned char* shared_map_ = nullptr;   // [guard][static][guard][dynamic][guard]
  unsigned char* static_ = nullptr;       // kMaxStaticShared, its end against the guard
  unsigned char* dynamic_end_ = nullptr;  // against the guard
  unsigned char* dynamic_ = nullptr;
  uint32_t static_used_ = 0;
  std::vector<void*> slot_address_;
  std::vector<SlotUse> slots_;
};

extern SIMT_TLS Runner* runner;

// "kernels/..." of a path.
const char* short_path(const char* path);
// memory.cpp
void describe_address(uintptr_t address, char* text, size_t bytes);
bool check_canaries(char* text, size_t bytes);
// fault.cpp
void install_fault_handler();
bool source_line(uintptr_t pc, char* text, size_t bytes);

}  // namespace simt
