// Kernels that test the emulator: what they need of it, and what happens where that is missing.
// self_test.cpp makes their arguments and knows what must come out.
#include "self_test.h"

#include "../core/barrier.h"
#include "../core/platform.h"

namespace {

// Behind what every block has.
struct Shared {
    float warp_sums[OG_MAX_THREADS / WARP];
    uint32_t words[OG_MAX_THREADS];
};

__device__ Shared& shared() { return *reinterpret_cast<Shared*>(shared_memory() + OG_SHARED_FIXED); }

__device__ unsigned warp_index() { return threadIdx.x / WARP; }
__device__ unsigned warp_count() { return blockDim.x / WARP; }

// What the grid barrier needs.
__device__ void begin(const OgArguments& arguments) {
    const Block block;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(&arguments);
    uint32_t* to = reinterpret_cast<uint32_t*>(&block.shared.arguments);
    for (uint32_t i = block.thread; i < sizeof(OgArguments) / 4; i += block.threads) to[i] = words[i];
    BLOCK_SYNC();
    if (block.thread == 0) GridBarrier().begin();
}

template <class T>
__device__ T* state(const OgArguments& arguments, uint64_t offset) {
    return reinterpret_cast<T*>(arguments.state + offset);
}

} // namespace

// Every way in which threads tell each other something, in every step. Each barrier here is needed.
KERNEL(everything) {
    begin(arguments);
    const GridBarrier grid;
    const unsigned thread = threadIdx.x, threads = blockDim.x;
    const unsigned index = blockIdx.x * threads + thread, all = gridDim.x * threads;
    uint32_t* values = state<uint32_t>(arguments, arguments.at.residual);
    float* block_sums = state<float>(arguments, arguments.at.normed);
    SelfTestResult* result = state<SelfTestResult>(arguments, arguments.at.qkv) + index;
    uint64_t* histogram = state<uint64_t>(arguments, arguments.at.histograms);

    for (uint32_t step = 0; step < arguments.max_steps; ++step) {
        // Through the grid, from the next block.
        values[index] = self_test_value(step, index);
        if (!grid.sync(OG_PHASE_QKV, step)) return;
        const uint32_t value = values[(index + threads) % all];
        result->values += value;

        // A sum over lanes, warps and blocks: small integers, so floats are exact.
        const float warp_sum = lanes_sum(static_cast<float>(value % 16));
        if (lane_index() == 0) shared().warp_sums[warp_index()] = warp_sum;
        BLOCK_SYNC();
        float block_sum = 0;
        for (unsigned warp = 0; warp < warp_count(); ++warp) block_sum += shared().warp_sums[warp];
        if (thread == 0) block_sums[blockIdx.x] = block_sum;
        add_relaxed(&histogram[value % SELF_TEST_BUCKETS], 1);
        if (!grid.sync(OG_PHASE_OUTPUT, step)) return;
        float sum = 0;
        for (unsigned block = 0; block < gridDim.x; ++block) sum += block_sums[block];
        result->sum += static_cast<uint32_t>(sum);
        result->histogram += histogram[thread % SELF_TEST_BUCKETS];

        // Through the block, there and back.
        shared().words[thread] = value;
        BLOCK_SYNC();
        const uint32_t far = shared().words[(thread + 33) % threads];
        BLOCK_SYNC();
        shared().words[thread] = far;
        warp_sync();
        result->words += shared().words[thread ^ 1];

        // Through the warp: values of each size, of other lanes, of some lanes.
        const unsigned lane = lane_index();
        result->shuffles += shuffle(value, (lane + 5) % WARP);
        result->shuffles += static_cast<uint32_t>(shuffle_xor(static_cast<double>(value), 16));
        float eight[1] = {static_cast<float>(value % 16)};
        lanes_sums<8>(eight);
        result->shuffles += static_cast<uint32_t>(eight[0]);
        const float pair[2] = {static_cast<float>(lane), static_cast<float>(step)};
        float gathered[2][WARP];
        emulator::gather(pair, gathered);
        result->shuffles += static_cast<uint32_t>(gathered[0][lane ^ 3] + gathered[1][lane]);

        if (index == 0) {
            uint64_t* ring = reinterpret_cast<OgMailbox*>(arguments.mailbox)->ring;
            store_system(&ring[step % arguments.ring_capacity], uint64_t{step + 1} << 32 | value);
            result->stop_mask = load_system(&reinterpret_cast<OgMailbox*>(arguments.mailbox)->stop_mask);
        }
    }
    grid.finish();
}

// A race: lanes meet at an exchange, but it orders no other memory.
KERNEL(exchange_for_barrier) {
    shared().words[threadIdx.x] = threadIdx.x;
    shuffle(0u, 0);
    state<uint32_t>(arguments, arguments.at.residual)[threadIdx.x] = shared().words[threadIdx.x ^ 1];
}

// A race: a block learns that another has written, but not what.
KERNEL(relaxed_flag) {
    uint32_t* values = state<uint32_t>(arguments, arguments.at.residual);
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) {
        values[0] = 1;
        add_release(&values[1], 1, Order::Relaxed);
    }
    if (blockIdx.x == 1) {
        while (load_relaxed(&values[1]) == 0) emulator::yield();
        values[2] = values[0];
    }
}

// No race: the same with an order.
KERNEL(ordered_flag) {
    uint32_t* values = state<uint32_t>(arguments, arguments.at.residual);
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) {
        values[0] = 1;
        add_release(&values[1], 1);
    }
    if (blockIdx.x == 1) {
        while (load_acquire(&values[1]) == 0) emulator::yield();
        values[2] = values[0];
    }
}

// Threads of a block wait for each other at different barriers.
KERNEL(two_barriers) {
    (void)arguments;
    if (warp_index() == 0) {
        BLOCK_SYNC();
    } else {
        BLOCK_SYNC();
    }
}

// Some threads never come to a barrier.
KERNEL(lost_barrier) {
    (void)arguments;
    if (warp_index() == 0) BLOCK_SYNC();
}

// Writes behind the block's shared memory.
KERNEL(beyond_shared) {
    (void)arguments;
    shared_memory()[SELF_TEST_SHARED] = 0;
}

// Writes to memory that is read-only.
KERNEL(writes_weights) { *reinterpret_cast<uint32_t*>(arguments.weights) = 1; }

// For timing: each does one thing `max_steps` times.
KERNEL(nothing) { (void)arguments; }

KERNEL(block_barriers) {
    for (uint32_t step = 0; step < arguments.max_steps; ++step) BLOCK_SYNC();
}

KERNEL(grid_barriers) {
    begin(arguments);
    const GridBarrier grid;
    for (uint32_t step = 0; step < arguments.max_steps; ++step) {
        if (!grid.sync(OG_PHASE_QKV, step)) return;
    }
    grid.finish();
}

KERNEL(exchanges) {
    uint32_t value = threadIdx.x;
    for (uint32_t step = 0; step < arguments.max_steps; ++step) value = shuffle_xor(value, 1);
    state<uint32_t>(arguments, arguments.at.residual)[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

KERNEL(lane_sums) {
    float value = 1;
    for (uint32_t step = 0; step < arguments.max_steps; ++step) value = lanes_sum(value) / WARP;
    state<float>(arguments, arguments.at.residual)[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
