// CUDA on CPU threads: lets a C++20 compiler compile the kernels, and run them with one thread of
// the operating system per CUDA thread. Included by core/platform.h where there is no nvcc.
//
// What the threads tell each other here is what ThreadSanitizer sees them tell each other, so each
// operation orders other memory exactly as far as CUDA says that it does: a barrier does, unless
// it is left out (emulator.cpp); a warp exchange and a relaxed atomic don't.
#pragma once

#include <math.h>
#include <stdint.h>

#include <atomic>
#include <bit>
#include <type_traits>

#include "../abi.h"

// ---- The language. ----

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __popc(unsigned x) { return std::popcount(x); }
template <class T>
inline T __ldg(const T* address) {
    return *address;
}

namespace emulator {

// A grid has one dimension here.
struct Index {
    unsigned x;
};

} // namespace emulator

inline thread_local emulator::Index threadIdx{}, blockIdx{}, blockDim{}, gridDim{};

namespace emulator {

// ---- Where threads meet. ----

// All threads of a block, at a place in the source that can be left out.
void block_barrier(const char* file, int line);

// All threads of the grid. Relaxed: they meet, but it orders nothing.
void grid_barrier(bool relaxed);

// Whether the grid barrier behind a phase is to order nothing.
bool is_left_out(OgPhase phase);

// All lanes of a warp.
void warp_barrier();

uint64_t exchange_bits(uint64_t value, unsigned source_lane);

// The value that another lane of the warp passes. All lanes call it together.
template <class T>
inline T exchange(T value, unsigned source_lane) {
    static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    return std::bit_cast<T>(static_cast<Bits>(exchange_bits(std::bit_cast<Bits>(value), source_lane)));
}

constexpr unsigned MAX_GATHERED = 16;

void gather_bits(const uint32_t* values, unsigned count, uint32_t* out);

// The values that all lanes of the warp pass: out[i][lane]. All lanes call it together. A few values
// at once cost no more than one.
template <unsigned COUNT>
inline void gather(const float (&values)[COUNT], float (&out)[COUNT][32]) {
    static_assert(COUNT <= MAX_GATHERED);
    uint32_t bits[COUNT], gathered[COUNT * 32];
    for (unsigned i = 0; i < COUNT; ++i) bits[i] = std::bit_cast<uint32_t>(values[i]);
    gather_bits(bits, COUNT, gathered);
    for (unsigned i = 0; i < COUNT * 32; ++i) out[i / 32][i % 32] = std::bit_cast<float>(gathered[i]);
}

inline void gather(float value, float (&out)[32]) {
    uint32_t bits = std::bit_cast<uint32_t>(value), gathered[32];
    gather_bits(&bits, 1, gathered);
    for (unsigned lane = 0; lane < 32; ++lane) out[lane] = std::bit_cast<float>(gathered[lane]);
}

// ---- Memory. ----

// The block's, of the size that the launch asked for.
void* shared_memory();

// Tells threads inside yield() that memory changed.
void signal();

// The order is spelled out in each call, since compilers take one that they don't know for the
// strongest.
template <class T>
inline T load(const T* address, std::memory_order order) {
    return order == std::memory_order_relaxed ? __atomic_load_n(address, __ATOMIC_RELAXED)
                                              : __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

template <class T>
inline void store(T* address, T value, std::memory_order order) {
    if (order == std::memory_order_relaxed) {
        __atomic_store_n(address, value, __ATOMIC_RELAXED);
    } else {
        __atomic_store_n(address, value, __ATOMIC_RELEASE);
    }
    signal();
}

template <class T>
inline void add(T* address, T value, std::memory_order order) {
    if (order == std::memory_order_relaxed) {
        __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
    }
    signal();
}

template <class T>
inline T exchange_word(T* address, T value) {
    const T before = __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
    signal();
    return before;
}

// ---- Time. ----

uint64_t clock_nanoseconds();

// For threads that wait for a word to change: called between looks at it. Returns when some thread
// wrote a word since this thread's last call, or after a while.
void yield();

// ---- Kernels. ----

using Kernel = void (*)(OgArguments);

struct Registration {
    Registration(const char* name, Kernel kernel);
};

} // namespace emulator

#define ONEGRID_REGISTER_KERNEL(name) static const emulator::Registration register_##name(#name, name)
