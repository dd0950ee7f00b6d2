// Signals that a kernel raises, turned into reports, and the source line of an instruction.
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "simt/runner.hpp"

namespace simt {

static struct sigaction previous[NSIG];

static uintptr_t program_counter(const ucontext_t* context) {
#if defined(__x86_64__)
  return static_cast<uintptr_t>(context->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return context->uc_mcontext.pc;
#else
  (void)context;
  return 0;
#endif
}

// 1 for a write, 0 for a read, -1 where the machine does not say.
static int was_write(const ucontext_t* context) {
#if defined(__x86_64__)
  return (context->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
  (void)context;
  return -1;
#endif
}

static void handle(int signal, siginfo_t* info, void* raw) {
  const auto* context = static_cast<const ucontext_t*>(raw);
  if (runner != nullptr && runner->in_fiber()) {
    // Leaves this stack for good; SA_NODEFER keeps the signal open for the next time.
    runner->fault(signal, program_counter(context), reinterpret_cast<uintptr_t>(info->si_addr),
                  was_write(context));
  }
  const struct sigaction& old = previous[signal];
  if (old.sa_flags & SA_SIGINFO) {
    old.sa_sigaction(signal, info, raw);
  } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
    old.sa_handler(signal);
  } else {
    sigaction(signal, &old, nullptr);  // returns to the fault, which then ends the process
  }
}

void install_fault_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    // SIGILL and SIGTRAP: what -fsanitize=alignment raises on a misaligned access.
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP}) {
      sigaction(signal, &action, &previous[signal]);
    }
  });
}

namespace {
struct Module {
  uintptr_t pc;
  uintptr_t base;
  char path[512];
};
int find_module(dl_phdr_info* info, size_t, void* raw) {
  auto* m = static_cast<Module*>(raw);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& p = info->dlpi_phdr[i];
    const uintptr_t start = info->dlpi_addr + p.p_vaddr;
    if (p.p_type == PT_LOAD && m->pc >= start && m->pc < start + p.p_memsz) {
      m->base = info->dlpi_addr;
      snprintf(m->path, sizeof m->path, "%s", info->dlpi_name);
      return 1;
    }
  }
  return 0;
}
}  // namespace

// file:line of an instruction, by binutils' addr2line: the innermost frame in a kernel source.
// False where that is not installed.
bool source_line(uintptr_t pc, char* text, size_t bytes) {
  Module m{pc, 0, ""};
  if (!dl_iterate_phdr(find_module, &m)) return false;
  if (m.path[0] == 0) {
    const ssize_t n = readlink("/proc/self/exe", m.path, sizeof m.path - 1);
    if (n <= 0) return false;
    m.path[n] = 0;
  }
  char command[700];
  snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", m.path, pc - m.base);
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return false;
  bool found = false;
  for (char line[512]; fgets(line, sizeof line, pipe) != nullptr;) {
    line[strcspn(line, " \n")] = 0;
    const char* path = short_path(line);
    // Frames of the headers here say less than the kernel's line around them.
    const bool ours = strncmp(path, "kernels/simt/", 13) == 0 && strchr(path + 13, '/') == nullptr;
    if (found || ours || strncmp(path, "kernels/", 8) != 0) continue;
    snprintf(text, bytes, "%s", path);
    found = true;
  }
  pclose(pipe);
  return found;
}

}  // namespace simt
