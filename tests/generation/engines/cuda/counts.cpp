// Counts what a kernel does that was compiled with -DCOUNTED and -fsanitize=thread: instead of the
// sanitizer, these functions are called before each load and store. Not to be compiled so itself.

#include "emulator.hpp"

#include <atomic>

static std::atomic<long> multiply_adds, loads, stores;

struct OwnCounts {
  long multiply_adds = 0, loads = 0, stores = 0;
  ~OwnCounts() {
    ::multiply_adds += multiply_adds;
    ::loads += loads;
    ::stores += stores;
  }
};
static thread_local OwnCounts own;

Counts counts() { return {multiply_adds, loads, stores}; }

float counted_fmaf(float a, float b, float c) {
  own.multiply_adds++;
  return std::fmaf(a, b, c);
}

// Stacks of threads and global memory lie elsewhere.
static bool is_shared(const void* address) {
  const unsigned char* memory = shared_memory();
  return memory && address >= memory && address < memory + SHARED_BYTES;
}

#define HOOKS(size)                                                                      \
  void __tsan_read##size(void* at) { own.loads += is_shared(at); }                       \
  void __tsan_write##size(void* at) { own.stores += is_shared(at); }                     \
  void __tsan_unaligned_read##size(void* at) { own.loads += is_shared(at); }             \
  void __tsan_unaligned_write##size(void* at) { own.stores += is_shared(at); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* at, long) { own.loads += is_shared(at); }
void __tsan_write_range(void* at, long) { own.stores += is_shared(at); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
