// Kernels that measure the machine: what memory gives, and what keeping the grid in step costs.

#include "core/barrier.h"
#include "core/platform.h"

// Reads this block's part of `bytes` bytes from `from`, 16 bytes a thread and eight loads under way, and returns a
// word that depends on all of it, so that no load is left out.
__device__ __forceinline__ uint32_t read_share(const Block& block, const uint4* from, uint64_t bytes) {
    constexpr int UNROLL = 8;
    const uint64_t words = bytes / sizeof(uint4);
    const uint64_t step = static_cast<uint64_t>(block.blocks) * block.threads;
    uint32_t sum = 0;
    for (uint64_t i = static_cast<uint64_t>(block.index) * block.threads + block.thread; i < words; i += UNROLL * step) {
        uint4 value[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) value[u] = i + u * step < words ? load_streamed(from + i + u * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) sum ^= value[u].x ^ value[u].y ^ value[u].z ^ value[u].w;
    }
    return sum;
}

// Makes a word count: stored if it has one value in four billion.
__device__ __forceinline__ void keep(const Block& block, uint32_t word) {
    if (word == 0x9e3779b9u) block.state<uint32_t>(block.at.residual)[block.index] = word;
}

// Reads `model.layer_bytes` bytes of the weights from `model.layers_begin` on, once: the ceiling of every decode step.
KERNEL(measure_read) {
    const Block block;
    block.begin(arguments);
    keep(block, read_share(block, block.weights<uint4>(block.model.layers_begin), block.model.layer_bytes));
}

// `max_steps` phases with a barrier of the chosen kind (or none) after each. A phase reads `prefetch` bytes of the
// weights, all blocks together, a different stretch each time until `model.layer_bytes` are through; with 0 it is
// empty. The cost of a barrier under load is the difference to the same without.
KERNEL(measure_barriers) {
    const Block block;
    block.begin(arguments);
    if (block.thread == 0) GridBarrier().begin();
    const uint64_t bytes = block.arguments.prefetch;
    const uint64_t stretches = bytes == 0 ? 1 : block.model.layer_bytes / bytes;
    uint32_t word = 0;
    for (uint32_t step = 0; step < block.arguments.max_steps; ++step) {
        const Block here;
        if (bytes != 0) {
            const char* from = here.weights<char>(here.model.layers_begin) + step % stretches * bytes;
            word ^= read_share(here, reinterpret_cast<const uint4*>(from), bytes);
        }
        if (!GridBarrier().sync(OG_PHASE_QKV, step)) return;
    }
    GridBarrier().finish();
    keep(block, word);
}

// Nothing: what a launch costs, and a node of a graph.
KERNEL(measure_launch) { (void)arguments; }
