// Memory of the simulated device: global allocations between guard pages, the shared memory of a
// block, fiber stacks, asynchronous copies.
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "simt/runner.hpp"

namespace simt {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = 64 * 1024 + kPage;
constexpr size_t kAlign = 256;  // what Driver::alloc promises
constexpr unsigned char kCanary = 0xC5;
constexpr size_t kFrontCanary = 256;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static char* map_pages(size_t bytes, void* at = nullptr) {
  void* p = mmap(at, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), -1,
                 0);
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}
static void guard(void* page) { mprotect(page, kPage, PROT_NONE); }

// ---- global memory -----------------------------------------------------------------------------

namespace {
// [guard][front canary .. data .. tail canary][guard]: the end of the data is less than kAlign
// from the guard, its start a multiple of kAlign.
struct Allocation {
  char* map;
  size_t map_bytes;
  size_t bytes;
};
struct Allocations {
  std::mutex lock;
  std::map<uintptr_t, Allocation> live;  // by start of the data
  // Low addresses. Never reused: a stale pointer faults.
  uintptr_t next = 0x1000000000;
};
Allocations& allocations() {
  static Allocations* all = new Allocations;
  return *all;
}

// First byte of [p, p + n) that is not the canary, or null.
const unsigned char* damaged(const void* p, size_t n) {
  const auto* bytes = static_cast<const unsigned char*>(p);
  for (size_t i = 0; i < n; ++i) {
    if (bytes[i] != kCanary) return bytes + i;
  }
  return nullptr;
}
}  // namespace

// Maps `pages` at the next free low addresses, or anywhere.
static char* map_low(Allocations& all, size_t bytes) {
  for (int tries = 0; tries < 64; ++tries) {
    if (all.next + bytes > 0x7000000000) all.next = 0x1000000000;
    char* p = map_pages(bytes, reinterpret_cast<void*>(all.next));
    all.next += bytes + (p == nullptr ? 0x40000000 : 0);
    if (p != nullptr) return p;
  }
  return map_pages(bytes);
}

void describe_address(uintptr_t address, char* text, size_t bytes) {
  if (address < kPage) {
    snprintf(text, bytes, ", a null pointer");
    return;
  }
  Allocations& all = allocations();
  std::lock_guard<std::mutex> hold(all.lock);
  auto after = all.live.upper_bound(address);
  const auto inside = [&](const std::pair<const uintptr_t, Allocation>& a) {
    const auto map = reinterpret_cast<uintptr_t>(a.second.map);
    return address >= map && address < map + a.second.map_bytes;
  };
  if (after != all.live.begin()) {
    const auto& a = *std::prev(after);
    if (inside(a)) {
      snprintf(text, bytes, ", out of bounds: byte %zu of an allocation of %zu",
               address - a.first, a.second.bytes);
      return;
    }
  }
  if (after != all.live.end() && inside(*after)) {
    snprintf(text, bytes, ", out of bounds: %zu bytes before an allocation of %zu",
             after->first - address, after->second.bytes);
    return;
  }
  snprintf(text, bytes, ", out of bounds: in no allocation");
}

bool check_canaries(char* text, size_t bytes) {
  Allocations& all = allocations();
  std::lock_guard<std::mutex> hold(all.lock);
  for (const auto& [start, a] : all.live) {
    auto* data = reinterpret_cast<unsigned char*>(start);
    const size_t tail = round_up(a.bytes, kAlign) - a.bytes;
    if (const auto* at = damaged(data + a.bytes, tail)) {
      snprintf(text, bytes, "a write out of bounds: byte %zu of an allocation of %zu",
               static_cast<size_t>(at - data), a.bytes);
      memset(data + a.bytes, kCanary, tail);
      return false;
    }
    if (const auto* at = damaged(data - kFrontCanary, kFrontCanary)) {
      snprintf(text, bytes, "a write out of bounds: %zu bytes before an allocation of %zu",
               static_cast<size_t>(data - at), a.bytes);
      memset(data - kFrontCanary, kCanary, kFrontCanary);
      return false;
    }
  }
  return true;
}

// ---- stacks and shared memory ------------------------------------------------------------------

constexpr size_t kStaticMap = kMaxStaticShared;
constexpr size_t kDynamicMap = 232 * 1024;
static_assert(kDynamicMap >= kMaxShared && kDynamicMap % kPage == 0 && kStaticMap % kPage == 0,
              "whole pages");
// Between two static variables: poison that must stay.
constexpr uint32_t kSlotGap = 32;

Runner::Runner() {
  const size_t bytes = kStaticMap + kDynamicMap + 3 * kPage;
  char* map = map_pages(bytes);
  guard(map);
  guard(map + kPage + kStaticMap);
  guard(map + bytes - kPage);
  shared_map_ = reinterpret_cast<unsigned char*>(map);
  static_ = shared_map_ + kPage;
  dynamic_end_ = shared_map_ + bytes - kPage;
  static_used_ = kStaticMap;
  signal_stack_ = map_pages(64 * 1024);
}

Runner::~Runner() {
  munmap(shared_map_, kStaticMap + kDynamicMap + 3 * kPage);
  munmap(signal_stack_, 64 * 1024);
  if (stacks_ != nullptr) munmap(stacks_, stacks_bytes_);
}

void Runner::make_stacks(uint32_t count) {
  if (fibers_.size() >= count) return;
  if (stacks_ != nullptr) munmap(stacks_, stacks_bytes_);
  fibers_.resize(count);
  stacks_bytes_ = count * kStackBytes;
  stacks_ = map_pages(stacks_bytes_);
  for (uint32_t t = 0; t < count; ++t) guard(stacks_ + t * kStackBytes);
}

int Runner::stack_overflow(uintptr_t address) const {
  const uintptr_t at = address - reinterpret_cast<uintptr_t>(stacks_);
  if (at >= stacks_bytes_ || at % kStackBytes >= kPage) return -1;
  return static_cast<int>(at / kStackBytes);
}

void Runner::poison_shared() {
  memset(static_, kPoison, static_used_);
  static_used_ = 0;
  slots_.clear();
  slot_address_.assign(slot_address_.size(), nullptr);
  const size_t dynamic = round_up(run_->launch.dynamic_shared_bytes, 1024);
  dynamic_ = dynamic_end_ - dynamic;
  memset(dynamic_, kPoison, dynamic);
}

// A report of a block as a whole: the line is its kernel's.
void Runner::report_block(const char* format, ...) {
  report_.set = true;
  report_.site = run_->launch.kernel->site;
  report_.pc = 0;
  report_.has_address = false;
  va_list values;
  va_start(values, format);
  vsnprintf(report_.text, sizeof report_.text, format, values);
  va_end(values);
}

// Says where an address lies in the memory of this block; false where it does not.
bool Runner::describe_own(uintptr_t address, char* text, size_t bytes) const {
  const auto start = reinterpret_cast<uintptr_t>(shared_map_);
  const auto dynamic = reinterpret_cast<uintptr_t>(dynamic_);
  if (address < start || address >= reinterpret_cast<uintptr_t>(dynamic_end_) + kPage) return false;
  if (address >= dynamic) {
    snprintf(text, bytes, ", out of bounds: byte %zu of %u of dynamic shared memory",
             address - dynamic, run_->launch.dynamic_shared_bytes);
  } else {
    snprintf(text, bytes, ", out of bounds of shared memory");
  }
  return true;
}

// Whatever lies between the variables is still poison.
void Runner::check_shared() {
  const auto clean = [](const unsigned char* p, size_t n) {
    while (n != 0 && *p == kPoison) ++p, --n;
    return n == 0;
  };
  for (size_t i = 0; i < slots_.size(); ++i) {
    const uint32_t end = slots_[i].begin + slots_[i].bytes;
    const uint32_t next = i + 1 < slots_.size() ? slots_[i + 1].begin : static_used_;
    if (!clean(static_ + end, next - end)) {
      report_block("a write out of bounds of shared memory, after `%s` of %u bytes",
                   slots_[i].name, slots_[i].bytes);
      return;
    }
  }
  const uint32_t bytes = run_->launch.dynamic_shared_bytes;
  if (!clean(dynamic_ + bytes, dynamic_end_ - dynamic_ - bytes)) {
    report_block("a write out of bounds of the %u bytes of dynamic shared memory", bytes);
  }
}

void* Runner::static_shared(Slot& slot, size_t bytes, size_t alignment, const char* name,
                            Site site) {
  static std::atomic<int> ids{0};
  int id = __atomic_load_n(&slot.id, __ATOMIC_RELAXED);
  if (id < 0) {
    int unset = -1;
    const int fresh = ids++;
    __atomic_compare_exchange_n(&slot.id, &unset, fresh, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    id = __atomic_load_n(&slot.id, __ATOMIC_RELAXED);
  }
  if (slot_address_.size() <= static_cast<size_t>(id)) slot_address_.resize(id + 1, nullptr);
  if (slot_address_[id] != nullptr) return slot_address_[id];
  // The next address that has this alignment and no greater.
  uint32_t begin = round_up(static_used_ + alignment, 2 * alignment) - alignment;
  const uint32_t end = begin + static_cast<uint32_t>(bytes);
  uint32_t sum = static_cast<uint32_t>(bytes);
  for (const SlotUse& s : slots_) sum += s.bytes;
  if (sum > kMaxStaticShared || end + kSlotGap > kStaticMap) {
    simt::fail(site, "%u bytes of static shared memory with `%s`, more than %u", sum, name,
               kMaxStaticShared);
  }
  if (sum + run_->launch.dynamic_shared_bytes > kMaxShared) {
    simt::fail(site, "%u bytes of static and %u of dynamic shared memory, more than %u", sum,
               run_->launch.dynamic_shared_bytes, kMaxShared);
  }
  slots_.push_back({begin, static_cast<uint32_t>(bytes), name});
  static_used_ = end + kSlotGap;
  return slot_address_[id] = static_ + begin;
}

// ---- asynchronous copies -----------------------------------------------------------------------

void Runner::async_copy(void* to, const void* from, uint32_t bytes, uint32_t from_bytes,
                        Site site) {
  Fiber& f = fiber(current_);
  f.site = site;
  auto* target = static_cast<unsigned char*>(to);
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 ||
      (from_bytes != 0 && reinterpret_cast<uintptr_t>(from) % bytes != 0)) {
    simt::fail(site, "misaligned cp.async of %u bytes, from %p to %p", bytes, from, to);
  }
  if (target < static_ || target + bytes > dynamic_end_) {
    simt::fail(site, "cp.async to %p, which is not shared memory", to);
  }
  if (from_bytes > bytes) simt::fail(site, "cp.async of %u bytes from %u", bytes, from_bytes);
  memset(target, kPoison, bytes);
  const auto* source = static_cast<const unsigned char*>(from);
  // A source out of bounds faults here, where it is asked for.
  if (from_bytes != 0) {
    (void)*static_cast<const volatile unsigned char*>(source);
    (void)*static_cast<const volatile unsigned char*>(source + from_bytes - 1);
  }
  f.async_copies.push_back({target, source, bytes, from_bytes, f.async_group, site});
}

void Runner::async_commit(Site site) {
  fiber(current_).site = site;
  ++fiber(current_).async_group;
}

void Runner::async_wait(uint32_t newest_left, Site site) {
  Fiber& f = fiber(current_);
  f.site = site;
  // Only committed groups are waited for.
  const uint32_t done = f.async_group > newest_left ? f.async_group - newest_left : 0;
  size_t kept = 0;
  for (const AsyncCopy& c : f.async_copies) {
    if (c.group < done) {
      memcpy(c.to, c.from, c.from_bytes);
      memset(c.to + c.from_bytes, 0, c.bytes - c.from_bytes);
    } else {
      f.async_copies[kept++] = c;
    }
  }
  f.async_copies.resize(kept);
}

void Runner::count_atomic(const void* address, size_t bytes) {
  const Site site = fiber(current_).site;
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    simt::fail(site, "misaligned atomic of %zu bytes at %p, after this line", bytes, address);
  }
  if (++atomics_ > 1u << 24) {
    simt::fail(site, "2^24 atomics without a collective, after this line: does this thread spin on "
                     "another block? Blocks may run one after the other");
  }
}

}  // namespace simt

using namespace simt;

extern "C" void* simt_alloc(uint64_t bytes) {
  const size_t data = round_up(bytes == 0 ? 1 : bytes, kAlign);
  const size_t pages = round_up(data + kFrontCanary, kPage);
  Allocations& all = allocations();
  std::lock_guard<std::mutex> hold(all.lock);
  char* map = map_low(all, pages + 2 * kPage);
  if (map == nullptr) return nullptr;
  guard(map);
  guard(map + kPage + pages);
  char* start = map + kPage + pages - data;
  memset(start - kFrontCanary, kCanary, kFrontCanary);
  memset(start + bytes, kCanary, data - bytes);
  all.live[reinterpret_cast<uintptr_t>(start)] = {map, pages + 2 * kPage, bytes};
  return start;
}

extern "C" void simt_free(void* pointer) {
  Allocations& all = allocations();
  std::lock_guard<std::mutex> hold(all.lock);
  const auto found = all.live.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == all.live.end()) return;
  munmap(found->second.map, found->second.map_bytes);
  all.live.erase(found);
}
