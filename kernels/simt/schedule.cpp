// Executes blocks: which lane runs next, where lanes wait for each other, and what goes wrong.
#include <csignal>
#include <cstdio>
#include <cstring>

#include "simt/runner.hpp"

#ifndef SIMT_UCONTEXT
asm(R"(
.text
.globl simt_switch_stack
.type simt_switch_stack,@function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack,.-simt_switch_stack
)");
#endif

namespace simt {

SIMT_TLS Runner* runner;

[[noreturn]] static void fail_here(Site site, const char* format, ...)
    __attribute__((format(printf, 2, 3)));
static void fail_here(Site site, const char* format, ...) {
  va_list values;
  va_start(values, format);
  runner->fail(site, format, values);
}

static int first_lane(uint32_t mask) { return __builtin_ctz(mask); }

// ---- blocks ------------------------------------------------------------------------------------

// A permutation of the blocks that the seed chooses: no kernel may count on an order.
static uint64_t block_at(const Run& run, uint64_t i) {
  if (run.launch.schedule == static_cast<uint32_t>(Schedule::Sequential)) return i;
  uint64_t step = (run.launch.seed * 0x9E3779B97F4A7C15ull >> 20) % run.blocks + 1;
  const auto coprime = [](uint64_t a, uint64_t b) {
    while (b != 0) {
      const uint64_t r = a % b;
      a = b;
      b = r;
    }
    return a == 1;
  };
  while (!coprime(step, run.blocks)) ++step;
  const unsigned __int128 at = static_cast<unsigned __int128>(i) * step + run.launch.seed;
  return static_cast<uint64_t>(at % run.blocks);
}

void Runner::run(Run& run) {
  run_ = &run;
  runner = this;
  stack_t old{}, mine{};
  mine.ss_sp = signal_stack_;
  mine.ss_size = 64 * 1024;
  sigaltstack(&mine, &old);
  make_stacks(run.launch.kernel->threads);
  for (uint64_t i; !run.failed && (i = run.next_block++) < run.blocks;) {
    if (!run_block(block_at(run, i))) {
      write_message();
      break;
    }
  }
  sigaltstack(&old, nullptr);
  runner = nullptr;
  run_ = nullptr;
}

bool Runner::run_block(uint64_t block) {
  begin_block(block);
  // Comes back when all threads have exited or one has failed.
  in_fiber_ = true;
  resume_next();
  in_fiber_ = false;
  if (!report_.set) check_shared();
  return !report_.set;
}

void Runner::begin_block(uint64_t block) {
  const Launch& l = run_->launch;
  gridDim = {l.grid[0], l.grid[1], l.grid[2]};
  blockDim = {l.kernel->threads, 1, 1};
  blockIdx = {static_cast<unsigned>(block % l.grid[0]),
              static_cast<unsigned>(block / l.grid[0] % l.grid[1]),
              static_cast<unsigned>(block / l.grid[0] / l.grid[1])};
  schedule_ = static_cast<Schedule>(l.schedule);
  random_state_ = ((l.seed + 1) * 0x9E3779B97F4A7C15ull) ^ ((block + 1) * 0xD1342543DE82EF95ull);
  for (int i = 0; i < 4; ++i) random();
  threads_ = live_ = l.kernel->threads;
  ready_warps_ = 0;
  barrier_arrived_ = barrier_votes_ = 0;
  atomics_ = 0;
  started_ = false;
  current_ = 0;
  report_.set = false;
  poison_shared();
  for (uint32_t w = 0; w < threads_ / 32; ++w) {
    Warp& warp = warps_[w];
    warp.exited = warp.at_barrier = warp.group_count = 0;
    warp.ready = 0;
    warp.priority = static_cast<uint32_t>(random() >> 40);
    wake(w, ~0u);
  }
  const size_t stack = stacks_bytes_ / fibers_.size();
  const size_t guard = 4096;
  for (uint32_t t = 0; t < threads_; ++t) {
    Fiber& f = fiber(t);
    // Tops differ so that the fibers' frames do not all fall into the same cache sets.
    make_context(f.context, stacks_ + t * stack + guard, stack - guard - t % 16 * 64,
                 enter_thread);
    f.site = l.kernel->site;
    f.async_group = 0;
    f.async_copies.clear();
  }
}

// ---- threads -----------------------------------------------------------------------------------

void Runner::enter_thread() {
  Runner& r = *runner;
  r.run_->launch.kernel->entry(r.run_->launch.args);
  r.exit_thread();
}

void Runner::exit_thread() {
  Fiber& f = fiber(current_);
  Warp& warp = warps_[current_ / 32];
  const uint32_t me = 1u << (current_ % 32);
  if (!f.async_copies.empty()) {
    const AsyncCopy& c = f.async_copies.front();
    fail_here(c.site, "%zu asynchronous copies are not waited for when the thread exits; this one %s",
              f.async_copies.size(),
              c.group < f.async_group ? "was committed" : "was never committed");
  }
  for (uint32_t g = 0; g < warp.group_count; ++g) {
    if (warp.groups[g].mask & me) {
      fail_here(warp.groups[g].site, "mask %08x names a lane that has exited; lane %d waits for it",
                warp.groups[g].mask, first_lane(warp.groups[g].arrived));
    }
  }
  if (barrier_arrived_ != 0) {
    fail_here(barrier_site_,
              "divergent barrier: this thread exits without it; thread %u waits there",
              barrier_first_);
  }
  warp.exited |= me;
  if (--live_ == 0) leave();
  resume_next();
}

void Runner::leave() {
  Context dead;
  switch_context(dead, main_);
  __builtin_unreachable();
}

uint64_t Runner::random() {
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_;
}

static int nth_bit(uint32_t mask, uint32_t n) {
  while (n-- != 0) mask &= mask - 1;
  return __builtin_ctz(mask);
}

uint32_t Runner::pick_warp() {
  const uint32_t now = current_ / 32;
  if (schedule_ == Schedule::Sequential) {
    return ready_warps_ >> now & 1u ? now : first_lane(ready_warps_);
  }
  if (schedule_ == Schedule::Uniform) {
    return nth_bit(ready_warps_, random() % __builtin_popcount(ready_warps_));
  }
  uint32_t best = first_lane(ready_warps_);
  for (uint32_t left = ready_warps_ & (ready_warps_ - 1); left != 0; left &= left - 1) {
    const uint32_t w = first_lane(left);
    if (warps_[w].priority > warps_[best].priority) best = w;
  }
  if (random() % 1024 == 0) warps_[best].priority = static_cast<uint32_t>(random() >> 40);
  return best;
}

// Runs the next lane on behalf of the running fiber, or of the main stack at a block's start.
void Runner::resume_next() {
  if (ready_warps_ == 0) stuck();
  const uint32_t w = pick_warp();
  Warp& warp = warps_[w];
  const uint32_t lane =
      schedule_ == Schedule::Sequential
          ? first_lane(warp.ready)
          : nth_bit(warp.ready, random() % __builtin_popcount(warp.ready));
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << w);
  const bool from_main = !started_;
  started_ = true;
  const uint32_t from = current_, to = w * 32 + lane;
  if (!from_main && from == to) return;
  current_ = to;
  atomics_ = 0;
  threadIdx = {to, 0, 0};
  switch_context(from_main ? main_ : fiber(from).context, fiber(to).context);
}

void Runner::wake(uint32_t warp, uint32_t lanes) {
  warps_[warp].ready |= lanes;
  if (lanes != 0) ready_warps_ |= 1u << warp;
}

// Wakes lanes of which the running one is a member. Under a random schedule any may go first.
void Runner::wake_with_me(uint32_t warp, uint32_t lanes) {
  const bool yields = schedule_ != Schedule::Sequential;
  wake(warp, yields ? lanes : lanes & ~(1u << (current_ % 32)));
  if (yields) resume_next();
}

void Runner::stuck() {
  char text[400];
  int at = 0;
  for (uint32_t w = 0; w < threads_ / 32 && at < 300; ++w) {
    for (uint32_t g = 0; g < warps_[w].group_count && at < 300; ++g) {
      const Group& group = warps_[w].groups[g];
      at += snprintf(text + at, sizeof text - at,
                     "; lanes %08x of warp %u wait at %s:%d for lanes %08x", group.arrived, w,
                     short_path(group.site.file), group.site.line, group.mask & ~group.arrived);
    }
  }
  if (barrier_arrived_ != 0) {
    snprintf(text + at, sizeof text - at, "; %u threads wait at the barrier %s:%d",
             barrier_arrived_, short_path(barrier_site_.file), barrier_site_.line);
  }
  fail_here(fiber(current_).site, "deadlock: no thread of the block can go on%s", text);
}

// ---- collectives -------------------------------------------------------------------------------

static const char* name_of(Op op) {
  static const char* const names[] = {"__syncwarp", "a shuffle",  "a vote", "a match",
                                      "a reduction", "ldmatrix", "mma"};
  return names[static_cast<int>(op)];
}

void Runner::meet(Op op, uint32_t mask, void* mine, Combine combine, Site site) {
  Fiber& f = fiber(current_);
  Warp& warp = warps_[current_ / 32];
  const uint32_t lane = current_ % 32, me = 1u << lane;
  f.site = site;
  if (!(mask & me)) fail_here(site, "mask %08x does not name the calling lane", mask);
  if (const uint32_t gone = mask & warp.exited) {
    fail_here(site, "mask %08x names lanes %08x, which have exited", mask, gone);
  }
  if (const uint32_t elsewhere = mask & warp.at_barrier) {
    const Site other = fiber(current_ / 32 * 32 + first_lane(elsewhere)).site;
    fail_here(site, "mask %08x names diverged lanes %08x, which wait at the barrier %s:%d", mask,
              elsewhere, short_path(other.file), other.line);
  }
  uint32_t g = 0;
  while (g < warp.group_count && warp.groups[g].mask != mask) {
    // A disjoint or a later group is fine; two that wait for each other are not.
    const Group& other = warp.groups[g];
    if (other.mask & me && other.arrived & mask) {
      fail_here(site, "mask %08x while lanes %08x wait with mask %08x at %s:%d for this lane",
                mask, other.arrived, other.mask, short_path(other.site.file), other.site.line);
    }
    ++g;
  }
  Group& group = warp.groups[g];
  if (g == warp.group_count) {
    ++warp.group_count;
    group.mask = mask;
    group.arrived = 0;
    group.op = op;
    group.site = site;
  } else if (group.op != op || group.site.line != site.line) {
    fail_here(site, "diverged warp: this lane is at %s, lanes %08x are at %s, %s:%d", name_of(op),
              group.arrived, name_of(group.op), short_path(group.site.file), group.site.line);
  }
  warp.operands[lane] = mine;
  group.arrived |= me;
  if (group.arrived == mask) {
    warp.groups[g] = warp.groups[--warp.group_count];
    combine(warp.operands, mask);
    wake_with_me(current_ / 32, mask);
  } else {
    resume_next();
  }
}

uint32_t Runner::barrier(bool predicate, Site site) {
  Fiber& f = fiber(current_);
  const uint32_t w = current_ / 32, me = 1u << (current_ % 32);
  Warp& warp = warps_[w];
  f.site = site;
  for (uint32_t g = 0; g < warp.group_count; ++g) {
    if (warp.groups[g].mask & me) {
      fail_here(site, "diverged lane: it is at a barrier, lanes %08x wait for it at %s, %s:%d",
                warp.groups[g].arrived, name_of(warp.groups[g].op),
                short_path(warp.groups[g].site.file), warp.groups[g].site.line);
    }
  }
  if (live_ != threads_) {
    fail_here(site, "divergent barrier: %u of %u threads have exited before it", threads_ - live_,
              threads_);
  }
  if (barrier_arrived_ == 0) {
    barrier_site_ = site;
    barrier_first_ = current_;
    barrier_votes_ = 0;
  } else if (barrier_site_.line != site.line || strcmp(barrier_site_.file, site.file) != 0) {
    fail_here(site, "divergent barrier: thread %u waits at another one, %s:%d", barrier_first_,
              short_path(barrier_site_.file), barrier_site_.line);
  }
  barrier_votes_ += predicate;
  warp.at_barrier |= me;
  if (++barrier_arrived_ < threads_) {
    resume_next();
  } else {
    barrier_arrived_ = 0;
    barrier_result_ = barrier_votes_;
    for (uint32_t v = 0; v < threads_ / 32; ++v) {
      warps_[v].at_barrier = 0;
      if (v != w) wake(v, ~0u);
    }
    wake_with_me(w, ~0u);
  }
  return barrier_result_;
}

// ---- reports -----------------------------------------------------------------------------------

void Runner::fail(Site site, const char* format, va_list values) {
  report_.set = true;
  report_.site = site;
  report_.pc = 0;
  report_.has_address = false;
  vsnprintf(report_.text, sizeof report_.text, format, values);
  if (!in_fiber_) __builtin_trap();
  leave();
}

void Runner::fault(int signal, uintptr_t pc, uintptr_t address, int write) {
  report_.set = true;
  report_.site = fiber(current_).site;
  report_.pc = pc;
  report_.has_address = false;
  const int overflown = stack_overflow(address);
  if (signal == SIGSEGV || signal == SIGBUS) {
    if (overflown >= 0) {
      snprintf(report_.text, sizeof report_.text, "stack overflow of thread %d", overflown);
    } else {
      report_.address = address;
      report_.has_address = true;
      snprintf(report_.text, sizeof report_.text, "%s address %#zx",
               write < 0 ? "access to" : write != 0 ? "write to" : "read of", address);
    }
  } else {
    snprintf(report_.text, sizeof report_.text,
             "misaligned access: the address is no multiple of its type's alignment");
  }
  leave();
}

// The first report of a launch wins.
void Runner::write_message() {
  std::lock_guard<std::mutex> hold(run_->message_lock);
  if (run_->failed.exchange(true)) return;
  char place[512], where[256] = "";
  if (report_.pc == 0 || !source_line(report_.pc, place, sizeof place)) {
    snprintf(place, sizeof place, "%s%s:%d", report_.pc != 0 ? "after " : "",
             short_path(report_.site.file), report_.site.line);
  }
  if (report_.has_address && !describe_own(report_.address, where, sizeof where)) {
    describe_address(report_.address, where, sizeof where);
  }
  snprintf(run_->launch.message, run_->launch.message_bytes,
           "kernel %s, block (%u,%u,%u), thread %u (warp %u, lane %u), %s: %s%s",
           run_->launch.kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, current_, current_ / 32,
           current_ % 32, place, report_.text, where);
}

// ---- core.hpp ----------------------------------------------------------------------------------

void fail(Site site, const char* format, ...) {
  va_list values;
  va_start(values, format);
  runner->fail(site, format, values);
}
void* static_shared(Slot& slot, size_t bytes, size_t alignment, const char* name, Site site) {
  return runner->static_shared(slot, bytes, alignment, name, site);
}
unsigned char* dynamic_shared() { return runner->dynamic_shared(); }
void meet(Op op, uint32_t mask, void* mine, Combine combine, Site site) {
  runner->meet(op, mask, mine, combine, site);
}
uint32_t barrier(bool predicate, Site site) { return runner->barrier(predicate, site); }
uint32_t live_lanes() { return runner->live_lanes(); }
void async_copy(void* to, const void* from, uint32_t bytes, uint32_t from_bytes, Site site) {
  runner->async_copy(to, from, bytes, from_bytes, site);
}
void async_commit(Site site) { runner->async_commit(site); }
void async_wait(uint32_t newest_left, Site site) { runner->async_wait(newest_left, site); }
void count_atomic(const void* address, size_t bytes) { runner->count_atomic(address, bytes); }

void fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace simt
