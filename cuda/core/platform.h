// What the kernel takes from the machine below it: thread indices, block barriers, warp exchanges,
// atomics with an order, loads that bypass caches. CUDA on a GPU; on CPU threads the emulator.
//
// This is the only folder with inline PTX, and each instruction stands beside the plain C++ that
// the emulator runs in its place.
#pragma once

#include <math.h>
#include <stdint.h>

#include "../abi.h"

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#define ONEGRID_EMULATED 0
#else
#include "../emulator/emulator.h"
#define ONEGRID_EMULATED 1
#endif

constexpr unsigned WARP = 32;

// Set by the source whose kernels record traces.
#if !defined(ONEGRID_TRACED)
#define ONEGRID_TRACED 0
#endif

// A phase is a function of its own: its registers are allocated for it alone, and kernels share it. Those that record
// traces are linked to the same program and have phases of their own, of which they don't call all.
#if ONEGRID_EMULATED && ONEGRID_TRACED
#define PHASE static __attribute__((noinline, unused))
#elif ONEGRID_EMULATED
#define PHASE __attribute__((noinline)) inline
#else
#define PHASE static __device__ __forceinline__
#endif

// A kernel, under the name that the host asks for. At least one block of OG_MAX_THREADS threads
// must fit a multiprocessor.
#if ONEGRID_EMULATED
#define KERNEL(name)                              \
    static void name(const OgArguments arguments); \
    ONEGRID_REGISTER_KERNEL(name);                \
    static void name(const OgArguments arguments)
#else
#define KERNEL(name) \
    extern "C" __global__ void __launch_bounds__(OG_MAX_THREADS, 1) name(const __grid_constant__ OgArguments arguments)
#endif

__device__ __forceinline__ unsigned lane_index() { return threadIdx.x % WARP; }

// The same value, of which the compiler knows nothing.
__device__ __forceinline__ uint32_t opaque(uint32_t value) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(value));
#endif
    return value;
}

// Waits for all threads of the block, and makes what each wrote visible to the others. A macro, so
// that the emulator knows the place and can leave it out.
#if ONEGRID_EMULATED
#define BLOCK_SYNC() emulator::block_barrier(__FILE__, __LINE__)
#else
#define BLOCK_SYNC() __syncthreads()
#endif

// Waits for all threads of the block for the clock's sake alone: nobody needs what it makes visible.
#if ONEGRID_EMULATED
#define BLOCK_MEET() emulator::block_barrier(__FILE__, __LINE__)
#else
#define BLOCK_MEET() __syncthreads()
#endif

// Every thread's dynamic shared memory.
__device__ __forceinline__ char* shared_memory() {
#if ONEGRID_EMULATED
    return static_cast<char*>(emulator::shared_memory());
#else
    extern __shared__ __align__(128) char bytes[];
    return bytes;
#endif
}

// ---- Warps. All 32 lanes must call these together. ----

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, unsigned mask) {
#if ONEGRID_EMULATED
    return emulator::exchange(value, lane_index() ^ mask);
#else
    return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

template <class T>
__device__ __forceinline__ T shuffle(T value, unsigned lane) {
#if ONEGRID_EMULATED
    return emulator::exchange(value, lane);
#else
    return __shfl_sync(0xffffffffu, value, lane);
#endif
}

// Replaces each value by its sum over the `WIDTH` lanes around this one (a power of two), in the order of a
// butterfly: the same bits in every lane.
template <unsigned WIDTH, int COUNT>
__device__ __forceinline__ void lanes_sums(float (&values)[COUNT]) {
#if ONEGRID_EMULATED
    // One rendezvous instead of COUNT * log2(WIDTH).
    float level[COUNT][WARP];
    emulator::gather(values, level);
    for (int i = 0; i < COUNT; ++i) {
        for (unsigned mask = WIDTH / 2; mask > 0; mask /= 2) {
            float next[WARP];
            for (unsigned lane = 0; lane < WARP; ++lane) next[lane] = level[i][lane] + level[i][lane ^ mask];
            for (unsigned lane = 0; lane < WARP; ++lane) level[i][lane] = next[lane];
        }
        values[i] = level[i][lane_index()];
    }
#else
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
#pragma unroll
        for (unsigned mask = WIDTH / 2; mask > 0; mask /= 2) values[i] += __shfl_xor_sync(0xffffffffu, values[i], mask);
    }
#endif
}

// The sum of one value over all lanes.
__device__ __forceinline__ float lanes_sum(float value) {
    float values[1] = {value};
    lanes_sums<WARP>(values);
    return values[0];
}

__device__ __forceinline__ void warp_sync() {
#if ONEGRID_EMULATED
    emulator::warp_barrier();
#else
    __syncwarp();
#endif
}

// ---- Memory. ----

// 16 bytes of weights or tables: never of anything that this launch writes. Not kept in L1, which
// they would only pass through.
__device__ __forceinline__ uint4 load_streamed(const void* address) {
#if defined(__CUDA_ARCH__)
    uint4 value;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
        : "l"(address));
    return value;
#else
    return *static_cast<const uint4*>(address);
#endif
}

// Asks for the line at `address` to be brought into L2. A hint.
__device__ __forceinline__ void prefetch_l2(const void* address) {
#if defined(__CUDA_ARCH__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
    (void)address;
#endif
}

// What an atomic access orders. On a GPU all of them act on the whole device.
enum class Order { Relaxed, AcquireRelease };

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* address, Order order = Order::AcquireRelease) {
#if defined(__CUDA_ARCH__)
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    (void)order;
    return value;
#else
    return emulator::load(address, order == Order::Relaxed ? std::memory_order_relaxed : std::memory_order_acquire);
#endif
}

__device__ __forceinline__ void add_release(uint32_t* address, uint32_t value, Order order = Order::AcquireRelease) {
#if defined(__CUDA_ARCH__)
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
    (void)order;
#else
    emulator::add(address, value, order == Order::Relaxed ? std::memory_order_relaxed : std::memory_order_acq_rel);
#endif
}

__device__ __forceinline__ uint32_t load_relaxed(const uint32_t* address) {
#if defined(__CUDA_ARCH__)
    uint32_t value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
#else
    return emulator::load(address, std::memory_order_relaxed);
#endif
}

__device__ __forceinline__ void store_relaxed(uint32_t* address, uint32_t value) {
#if defined(__CUDA_ARCH__)
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#else
    emulator::store(address, value, std::memory_order_relaxed);
#endif
}

__device__ __forceinline__ uint32_t exchange_relaxed(uint32_t* address, uint32_t value) {
#if defined(__CUDA_ARCH__)
    return atomicExch(address, value);
#else
    return emulator::exchange_word(address, value);
#endif
}

// Sums of integers come out the same in any order.
__device__ __forceinline__ void add_relaxed(uint64_t* address, uint64_t value) {
#if defined(__CUDA_ARCH__)
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
#else
    emulator::add(address, value, std::memory_order_relaxed);
#endif
}

// The same within a block's shared memory.
__device__ __forceinline__ void add_shared(uint64_t* address, uint64_t value) {
#if defined(__CUDA_ARCH__)
    atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
#else
    emulator::add(address, value, std::memory_order_relaxed);
#endif
}

// Host and device together: words of the mailbox.
__device__ __forceinline__ uint32_t load_system(const uint32_t* address) {
#if defined(__CUDA_ARCH__)
    uint32_t value;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
#else
    return emulator::load(address, std::memory_order_relaxed);
#endif
}

__device__ __forceinline__ void store_system(uint64_t* address, uint64_t value) {
#if defined(__CUDA_ARCH__)
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
#else
    emulator::store(address, value, std::memory_order_relaxed);
#endif
}

// Nanoseconds of a clock that all blocks share.
__device__ __forceinline__ uint64_t clock_nanoseconds() {
#if defined(__CUDA_ARCH__)
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
#else
    return emulator::clock_nanoseconds();
#endif
}
