// A libcuda with no GPU behind it: what tests/cuda_driver.rs runs the CUDA device against.
//
// It keeps the driver's rules where the engine could break them, and aborts with a line on stderr
// when it does: contexts must be current, copies must lie inside allocations, host memory of
// asynchronous copies must be pinned, nothing but launches may be captured.
//
// Streams are real queues. Nothing queued runs before it must (FAKE_CUDA_ORDER=lazy), or it runs at
// once (eager), or at random (a seed): memory reused too early and missing waits give wrong bytes.
// Launches call back into the test, which may run the kernel on the host.
//
// A host program is part of it: it has a context, a stream and memory that the engine may use, and
// whoever ends one of them for it is caught.
//
// FAKE_CUDA_VERSION, _DEVICES, _ARCH, _MEMORY, _INIT (a CUresult), _LOAD (a CUresult),
// _KERNELS (a file: name threads argument-bytes), _FAULT_AT (the launch after which the context is
// dead).
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef uint64_t Ptr;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
       ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900 };

typedef int (*Launcher)(const char* name, const uint32_t* grid, uint32_t shared, const void* args,
                        size_t bytes);
typedef void* (*Allocator)(size_t bytes);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
enum { DEEP = 16 };
static __thread void* stack[DEEP];
static __thread int depth;
#define current (depth ? stack[depth - 1] : NULL)
static int started, dead, context_users;
static char context_token, host_token, other_token;
static Launcher launcher;
static uint64_t waits, transfers, replays;

static long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

static void die(const char* what) {
  fprintf(stderr, "fake cuda: %s\n", what);
  abort();
}

// ---- memory -------------------------------------------------------------------------------

typedef struct Block { Ptr at; size_t bytes; int pinned, host, device; struct Block* next; } Block;
static Block* blocks;
static size_t used;

static Block* holding(Ptr at, size_t bytes, int pinned) {
  for (Block* b = blocks; b; b = b->next)
    if (b->pinned == pinned && at >= b->at && at + bytes <= b->at + b->bytes) return b;
  return NULL;
}

static Ptr allocate(size_t bytes, int pinned) {
  Block* b = malloc(sizeof *b);
  void* at = NULL;
  if (posix_memalign(&at, 512, bytes + 512)) die("no memory");
  memset(at, 0xcd, bytes);
  *b = (Block){.at = (Ptr)at, .bytes = bytes, .pinned = pinned, .next = blocks};
  blocks = b;
  if (!pinned) used += bytes;
  return b->at;
}

static R release(Ptr at, int pinned) {
  for (Block** p = &blocks; *p; p = &(*p)->next)
    if ((*p)->at == at && (*p)->pinned == pinned) {
      Block* b = *p;
      if (b->host) die("the host's memory is freed for it");
      *p = b->next;
      if (!pinned) used -= b->bytes;
      memset((void*)b->at, 0xdd, b->bytes);
      free((void*)b->at);
      free(b);
      return OK;
    }
  die(pinned ? "freeing unknown pinned memory" : "freeing unknown device memory");
  return INVALID_VALUE;
}

// ---- streams ------------------------------------------------------------------------------

typedef struct { char name[64]; int threads; size_t bytes; int max_dynamic; } Kernel;
typedef enum { COPY, SET, LAUNCH, RECORD, WAIT } Kind;
struct Stream;
typedef struct Event { struct Stream* stream; uint64_t position, ran_at; } Event;
typedef struct Op {
  Kind kind;
  Ptr to, from;
  size_t bytes;
  Kernel* kernel;
  uint32_t grid[3], shared;
  unsigned char args[4096];
  Event* event;
  struct Stream* other;
  uint64_t position;
  struct Op* next;
} Op;
typedef struct Stream { Op *first, *last; uint64_t queued, done; int capturing, host;
                        struct Graph* graph; void* context; struct Stream* next; } Stream;
typedef struct Graph { Op *first, *last; } Graph;
static Stream* streams;
static uint64_t ran, launches;

static void run_until(Stream* s, uint64_t position);

static void run(Stream* s) {
  Op* op = s->first;
  if (op->kind == WAIT) run_until(op->other, op->position);
  s->first = op->next;
  if (!s->first) s->last = NULL;
  s->done++;
  ran++;
  if (!dead) switch (op->kind) {
    case COPY: memcpy((void*)op->to, (void*)op->from, op->bytes); break;
    case SET: memset((void*)op->to, 0, op->bytes); break;
    case LAUNCH:
      launches++;
      if (launcher && launcher(op->kernel->name, op->grid, op->shared, op->args, op->kernel->bytes))
        dead = ILLEGAL_ADDRESS;
      if (launches == (uint64_t)setting("FAKE_CUDA_FAULT_AT", 0)) dead = ILLEGAL_ADDRESS;
      break;
    case RECORD: op->event->ran_at = ran; break;
    case WAIT: break;
  }
  free(op);
}

static void run_until(Stream* s, uint64_t position) {
  while (s->done < position) run(s);
}

static uint64_t state = 1;
static void some(void) {
  const char* order = getenv("FAKE_CUDA_ORDER");
  if (!order || !strcmp(order, "lazy")) return;
  if (!strcmp(order, "eager")) {
    for (Stream* s = streams; s; s = s->next) run_until(s, s->queued);
    return;
  }
  for (Stream* s = streams; s; s = s->next) {
    state = state * 6364136223846793005u + 1442695040888963407u + (uint64_t)atol(order);
    for (unsigned n = (state >> 33) % 4; n && s->first; n--) run(s);
  }
}

static Stream* new_stream(void* context, int host) {
  Stream* s = calloc(1, sizeof *s);
  *s = (Stream){.context = context, .host = host, .next = streams};
  return streams = s;
}

// The default stream has no handle.
static int is_default(Stream* s) { return (uintptr_t)s < 2; }
static Stream* of(Stream* s) {
  static Stream* legacy;
  if (!is_default(s)) return s;
  if (!legacy) legacy = new_stream(NULL, 1);
  legacy->context = current;
  return legacy;
}

static Op* queue(Stream* s, Kind kind) {
  if (s->context != current) die("a stream of a context that is not current");
  Op* op = calloc(1, sizeof *op);
  op->kind = kind;
  if (s->capturing) {
    if (kind != LAUNCH) die("something other than a launch is captured");
    if (s->graph->last) s->graph->last->next = op; else s->graph->first = op;
    s->graph->last = op;
    return op;
  }
  if (s->last) s->last->next = op; else s->first = op;
  s->last = op;
  s->queued++;
  return op;
}

// ---- the interface ------------------------------------------------------------------------

#define BEGIN pthread_mutex_lock(&lock); R r_ = OK
#define END pthread_mutex_unlock(&lock); return r_
#define FAIL(code) do { pthread_mutex_unlock(&lock); return (code); } while (0)
#define IN_CONTEXT BEGIN; if (!current) FAIL(INVALID_CONTEXT); if (dead) FAIL(dead)

void fake_cuda_set_launcher(Launcher l) { launcher = l; }
uint64_t fake_cuda_launches(void) { return launches; }
uint64_t fake_cuda_leaks(void) {
  uint64_t n = 0;
  for (Block* b = blocks; b; b = b->next) n += !b->host;
  for (Stream* s = streams; s; s = s->next) n += !s->host;
  return n + (uint64_t)context_users;
}

// How often somebody waited, or did what waits.
uint64_t fake_cuda_waits(void) { return waits; }
// Copies between host and device, and launches of recordings.
uint64_t fake_cuda_transfers(void) { return transfers; }
uint64_t fake_cuda_replays(void) { return replays; }
void* fake_cuda_current(void) { return current; }

// The host's context and stream; the host is at work in another context of its own.
void fake_host_lend(void** context, Stream** stream, void** other) {
  *context = &host_token;
  *stream = new_stream(&host_token, 1);
  *other = stack[0] = &other_token;
  depth = 1;
}
Ptr fake_host_memory(size_t bytes, int device) {
  Ptr at = allocate(bytes, 0);
  blocks->host = 1;
  blocks->device = device;
  return at;
}
void fake_host_synchronize(Stream* s) { run_until(of(s), of(s)->queued); }

R cuDriverGetVersion(int* v) { *v = (int)setting("FAKE_CUDA_VERSION", 13000); return OK; }
R cuInit(unsigned flags) {
  (void)flags;
  R failed = (R)setting("FAKE_CUDA_INIT", 0);
  started = !failed;
  return failed;
}
R cuGetErrorName(R e, const char** s) {
  *s = e == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OF_THE_FAKE";
  return OK;
}
R cuGetErrorString(R e, const char** s) {
  *s = e == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "the fake's error";
  return OK;
}
R cuDeviceGetCount(int* n) {
  if (!started) return NOT_INITIALIZED;
  *n = (int)setting("FAKE_CUDA_DEVICES", 1);
  return OK;
}
R cuDeviceGet(int* d, int i) {
  if (i < 0 || i >= setting("FAKE_CUDA_DEVICES", 1)) return INVALID_DEVICE;
  *d = i;
  return OK;
}
R cuDeviceGetName(char* name, int bytes, int d) { snprintf(name, bytes, "Fake %d", d); return OK; }
R cuDeviceTotalMem_v2(size_t* bytes, int d) {
  (void)d;
  *bytes = (size_t)setting("FAKE_CUDA_MEMORY", 1l << 30);
  return OK;
}
R cuDeviceGetAttribute(int* v, int attribute, int d) {
  (void)d;
  long arch = setting("FAKE_CUDA_ARCH", 90);
  switch (attribute) {
    case 75: *v = (int)(arch / 10); break;
    case 76: *v = (int)(arch % 10); break;
    case 16: *v = 4; break;
    case 97: *v = 227 * 1024; break;
    default: *v = 0;
  }
  return OK;
}
R cuDevicePrimaryCtxRetain(void** c, int d) {
  (void)d;
  BEGIN;
  context_users++;
  *c = &context_token;
  END;
}
R cuDevicePrimaryCtxRelease_v2(int d) {
  (void)d;
  BEGIN;
  if (!context_users--) die("a primary context released for somebody else");
  END;
}
R cuCtxGetCurrent(void** c) { *c = current; return OK; }
R cuCtxSetCurrent(void* c) {
  if (!depth) depth = 1;
  stack[depth - 1] = c;
  return OK;
}
R cuCtxPushCurrent_v2(void* c) {
  if (c != &context_token && c != &host_token && c != &other_token) return INVALID_CONTEXT;
  if (depth == DEEP) die("a context pushed and never popped");
  stack[depth++] = c;
  return OK;
}
R cuCtxPopCurrent_v2(void** c) {
  if (!depth) return INVALID_CONTEXT;
  *c = stack[--depth];
  return OK;
}
R cuCtxGetDevice(int* d) { IN_CONTEXT; *d = 0; END; }
R cuCtxDestroy_v2(void* c) {
  (void)c;
  die("a context destroyed");
  return OK;
}
R cuCtxSynchronize(void) {
  IN_CONTEXT;
  for (Stream* s = streams; s; s = s->next) run_until(s, s->queued);
  END;
}

static Kernel* kernels;
static int kernel_count;
R cuModuleLoadData(void** m, const void* image) {
  IN_CONTEXT;
  R failed = (R)setting("FAKE_CUDA_LOAD", 0);
  if (failed) FAIL(failed);
  if (*(const uint32_t*)image != 0xba55ed50u) die("that is no fatbin");
  if (!kernels) {
    FILE* f = fopen(getenv("FAKE_CUDA_KERNELS"), "r");
    if (!f) die("no table of kernels");
    kernels = calloc(4096, sizeof *kernels);
    while (fscanf(f, "%63s %d %zu", kernels[kernel_count].name, &kernels[kernel_count].threads,
                  &kernels[kernel_count].bytes) == 3)
      kernel_count++;
    fclose(f);
  }
  *m = &kernels;
  END;
}
R cuModuleUnload(void* m) { (void)m; IN_CONTEXT; END; }
R cuModuleGetFunction(void** f, void* m, const char* name) {
  (void)m;
  IN_CONTEXT;
  r_ = NOT_FOUND;
  for (int i = 0; i < kernel_count; i++)
    if (!strcmp(kernels[i].name, name)) { *f = &kernels[i]; r_ = OK; }
  END;
}
R cuFuncGetAttribute(int* v, int attribute, void* f) {
  *v = attribute == 0 ? ((Kernel*)f)->threads : 0;
  return OK;
}
R cuFuncSetAttribute(void* f, int attribute, int v) {
  if (attribute == 8) ((Kernel*)f)->max_dynamic = v;
  return OK;
}
R cuFuncGetParamInfo(void* f, size_t i, size_t* offset, size_t* size) {
  if (i) return INVALID_VALUE;
  *offset = 0;
  *size = ((Kernel*)f)->bytes;
  return OK;
}

R cuMemGetInfo_v2(size_t* free_, size_t* total) {
  IN_CONTEXT;
  *total = (size_t)setting("FAKE_CUDA_MEMORY", 1l << 30);
  *free_ = *total - used;
  END;
}
R cuPointerGetAttribute(void* data, int attribute, Ptr p) {
  IN_CONTEXT;
  Block* b = holding(p, 1, 0);
  if (!b || attribute != 9) FAIL(INVALID_VALUE);
  *(int*)data = b->device;
  END;
}
static int capturing(void) {
  for (Stream* s = streams; s; s = s->next) if (s->capturing) return 1;
  return 0;
}
R cuMemAlloc_v2(Ptr* p, size_t bytes) {
  IN_CONTEXT;
  if (capturing()) FAIL(CAPTURE_UNSUPPORTED);
  if (!bytes) FAIL(INVALID_VALUE);
  if (used + bytes > (size_t)setting("FAKE_CUDA_MEMORY", 1l << 30)) FAIL(OUT_OF_MEMORY);
  waits++;
  *p = allocate(bytes, 0);
  END;
}
R cuMemFree_v2(Ptr p) {
  IN_CONTEXT;
  if (capturing()) die("memory freed during a capture");
  waits++;
  for (Stream* s = streams; s; s = s->next) run_until(s, s->queued);
  r_ = release(p, 0);
  END;
}
R cuMemHostAlloc(void** p, size_t bytes, unsigned flags) {
  (void)flags;
  IN_CONTEXT;
  *p = (void*)allocate(bytes, 1);
  END;
}
R cuMemFreeHost(void* p) {
  BEGIN;
  if (!current) FAIL(INVALID_CONTEXT);
  r_ = release((Ptr)p, 1);
  END;
}

R cuStreamCreate(Stream** s, unsigned flags) {
  IN_CONTEXT;
  if (!(flags & 1)) die("a stream that waits for the default stream");
  *s = new_stream(current, 0);
  END;
}
R cuStreamDestroy_v2(Stream* s) {
  BEGIN;
  if (of(s)->host) die("the host's stream is destroyed for it");
  run_until(s, s->queued);
  for (Stream** p = &streams; *p; p = &(*p)->next) if (*p == s) { *p = s->next; break; }
  // Not freed: events may still point to it.
  END;
}
R cuStreamGetCtx(Stream* s, void** c) {
  IN_CONTEXT;
  *c = of(s)->context;
  END;
}
R cuStreamSynchronize(Stream* s) {
  IN_CONTEXT;
  s = of(s);
  if (s->context != current) FAIL(INVALID_CONTEXT);
  waits++;
  if (s->capturing) FAIL(CAPTURE_UNSUPPORTED);
  run_until(s, s->queued);
  r_ = dead;
  END;
}
R cuStreamWaitEvent(Stream* s, Event* e, unsigned flags) {
  (void)flags;
  IN_CONTEXT;
  if (e->stream) {
    Op* op = queue(of(s), WAIT);
    op->other = e->stream;
    op->position = e->position;
  }
  END;
}
R cuEventCreate(Event** e, unsigned flags) {
  (void)flags;
  IN_CONTEXT;
  *e = calloc(1, sizeof **e);
  END;
}
// Not freed: a queue may still hold it.
R cuEventDestroy_v2(Event* e) {
  (void)e;
  if (!current) die("an event destroyed outside its context");
  return OK;
}
R cuEventRecord(Event* e, Stream* s) {
  IN_CONTEXT;
  s = of(s);
  Op* op = queue(s, RECORD);
  op->event = e;
  e->stream = s;
  e->position = s->queued;
  some();
  END;
}
R cuEventSynchronize(Event* e) {
  IN_CONTEXT;
  waits++;
  if (e->stream) run_until(e->stream, e->position);
  r_ = dead;
  END;
}
// One "millisecond" an operation.
R cuEventElapsedTime(float* ms, Event* a, Event* b) {
  IN_CONTEXT;
  if (!a->ran_at || !b->ran_at) FAIL(NOT_READY);
  *ms = (float)(b->ran_at - a->ran_at);
  END;
}

static R copy(Ptr to, Ptr from, size_t bytes, Stream* s) {
  Op* op = queue(of(s), COPY);
  op->to = to;
  op->from = from;
  op->bytes = bytes;
  some();
  return OK;
}
R cuMemcpyHtoDAsync_v2(Ptr to, const void* from, size_t bytes, Stream* s) {
  IN_CONTEXT;
  if (!holding((Ptr)from, bytes, 1)) die("an upload from memory that is not pinned");
  if (!holding(to, bytes, 0)) die("an upload past an allocation");
  transfers++;
  r_ = copy(to, (Ptr)from, bytes, s);
  END;
}
R cuMemcpyDtoHAsync_v2(void* to, Ptr from, size_t bytes, Stream* s) {
  IN_CONTEXT;
  if (!holding((Ptr)to, bytes, 1)) die("a download to memory that is not pinned");
  if (!holding(from, bytes, 0)) die("a download past an allocation");
  transfers++;
  r_ = copy((Ptr)to, from, bytes, s);
  END;
}
R cuMemcpyDtoDAsync_v2(Ptr to, Ptr from, size_t bytes, Stream* s) {
  IN_CONTEXT;
  if (!holding(to, bytes, 0) || !holding(from, bytes, 0)) die("a copy past an allocation");
  r_ = copy(to, from, bytes, s);
  END;
}
R cuMemsetD8Async(Ptr to, unsigned char value, size_t bytes, Stream* s) {
  IN_CONTEXT;
  if (value || !holding(to, bytes, 0)) die("a fill past an allocation");
  Op* op = queue(of(s), SET);
  op->to = to;
  op->bytes = bytes;
  some();
  END;
}
R cuLaunchKernel(Kernel* k, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                 unsigned shared, Stream* s, void** params, void** extra) {
  IN_CONTEXT;
  if (!x || !y || !z || by != 1 || bz != 1 || (int)bx != k->threads || (int)shared > k->max_dynamic ||
      extra)
    FAIL(INVALID_VALUE);
  Op* op = queue(of(s), LAUNCH);
  op->kernel = k;
  op->grid[0] = x;
  op->grid[1] = y;
  op->grid[2] = z;
  op->shared = shared;
  memcpy(op->args, params[0], k->bytes);
  some();
  END;
}

R cuStreamBeginCapture_v2(Stream* s, int mode) {
  IN_CONTEXT;
  if (mode != 1) die("a capture that is not thread-local");
  if (is_default(s)) FAIL(CAPTURE_UNSUPPORTED);
  if (s->capturing) FAIL(INVALID_VALUE);
  s->capturing = 1;
  s->graph = calloc(1, sizeof *s->graph);
  END;
}
R cuStreamEndCapture(Stream* s, Graph** g) {
  IN_CONTEXT;
  if (!s->capturing) FAIL(INVALID_VALUE);
  s->capturing = 0;
  *g = s->graph;
  END;
}
R cuGraphInstantiateWithFlags(Graph** exec, Graph* g, unsigned long long flags) {
  (void)flags;
  IN_CONTEXT;
  *exec = malloc(sizeof **exec);
  **exec = *g;
  END;
}
R cuGraphDestroy(Graph* g) { (void)g; return OK; }
R cuGraphExecDestroy(Graph* g) { free(g); return OK; }
R cuGraphUpload(Graph* g, Stream* s) { (void)g; (void)s; IN_CONTEXT; END; }
#ifndef WITHOUT_GRAPH_LAUNCH
R cuGraphLaunch(Graph* g, Stream* s) {
  IN_CONTEXT;
  replays++;
  for (Op* op = g->first; op; op = op->next) {
    Op* copy = queue(of(s), LAUNCH);
    memcpy(copy->args, op->args, sizeof op->args);
    memcpy(copy->grid, op->grid, sizeof op->grid);
    copy->kernel = op->kernel;
    copy->shared = op->shared;
    some();
  }
  END;
}
#endif
