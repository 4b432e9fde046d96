// What a block knows: the launch's arguments, and its shared memory.
#pragma once

#include <stddef.h>

#include "platform.h"

// A stretch of columns of one sequence, which attend together.
struct Run {
    uint32_t first;        // column
    uint32_t length;       // columns
    uint32_t past;         // positions cached before this pass: that of the first column
    uint32_t query_blocks; // of each KV head
    uint32_t splits;       // of the past
    uint32_t split_length; // positions of each but the last
    uint32_t first_task;   // of attention
};

// How the columns of a pass attend; every block derives the same from the control block.
struct Pass {
    uint32_t runs;
    uint32_t tasks; // of attention
    Run run[OG_MAX_COLUMNS];
    uint32_t run_of[OG_MAX_COLUMNS];
};

// A product's share of one block: groups of OG_GROUP_ROWS rows.
struct Share {
    uint32_t first;
    uint32_t count;
};

// Where a block is in the grid barrier's count; its first thread alone writes it.
struct BarrierPlace {
    uint32_t first_arrival; // arrivals when this launch began
    uint32_t first_epoch;   // epochs then
    uint32_t epoch;         // epochs now
    uint32_t aborted;
};

// Where a block is in the trace; its first thread's alone. There in all kernels, so that what kernels share is the same.
struct TracePlace {
    uint64_t since; // when the last event ended
    uint32_t epoch; // barriers passed in this launch
    uint32_t step;
    uint32_t layer;
    uint32_t count, lost; // as in OgTraceHead
};

// The first part of a block's shared memory.
struct BlockState {
    OgArguments arguments;
    BarrierPlace barrier;
    OgControl control; // this block's copy: all blocks change theirs alike
    Pass pass;
    float squares[WARP][OG_MAX_COLUMNS]; // sums of squares by warp
    float scale[OG_MAX_COLUMNS];         // of a norm
    float sums[OG_SEGMENT_SUMS];
    Share share[OG_PHASES];
    // Sampling, by request.
    OgCandidate best[OG_MAX_COLUMNS]; // of all blocks
    float cut[OG_MAX_COLUMNS];        // the lowest scaled logit that survives the filters
    uint32_t prefix[OG_MAX_COLUMNS];  // of the key that a selection looks for
    uint64_t wanted[OG_MAX_COLUMNS];  // mass that it must still reach
    uint64_t totals[WARP];            // of a histogram, by warp
    double warp_key[WARP];
    uint32_t warp_token[WARP];
    TracePlace trace;
};
static_assert(sizeof(BlockState) <= OG_SHARED_FIXED, "the host sets aside OG_SHARED_FIXED bytes");

// Access to all of it. Holds nothing of its own, so that a function that is not inlined takes none along.
struct Block {
    const OgArguments& arguments;
    const OgModel& model;
    const OgState& at;
    BlockState& shared;
    // Of CUDA's indices and sizes, as values that the compiler takes for new in every phase: what it derives
    // from them would otherwise be kept in registers throughout the kernel, and there are not enough.
    const uint32_t thread;
    const uint32_t threads; // of a block
    const uint32_t index;   // the block's
    const uint32_t blocks;
    float* const work; // the part that phases share by turns: [columns][tile], or attention's

    __device__ __forceinline__ Block()
        : arguments(reinterpret_cast<BlockState*>(shared_memory())->arguments),
          model(arguments.model),
          at(arguments.at),
          shared(*reinterpret_cast<BlockState*>(shared_memory())),
          thread(opaque(threadIdx.x)),
          threads(opaque(blockDim.x)),
          index(opaque(blockIdx.x)),
          blocks(opaque(gridDim.x)),
          work(reinterpret_cast<float*>(shared_memory() + OG_SHARED_FIXED)) {}

    __device__ __forceinline__ uint32_t lane() const { return thread % WARP; }
    __device__ __forceinline__ uint32_t warp() const { return thread / WARP; }
    __device__ __forceinline__ uint32_t warps() const { return threads / WARP; }

    template <class T>
    __device__ __forceinline__ const T* weights(uint64_t offset) const {
        return reinterpret_cast<const T*>(arguments.weights + offset);
    }
    // A tensor of a layer, by its offset within one.
    template <class T>
    __device__ __forceinline__ const T* layer_weights(uint32_t layer, uint64_t offset) const {
        return weights<T>(model.layers_begin + layer * model.layer_bytes + offset);
    }
    template <class T>
    __device__ __forceinline__ T* state(uint64_t offset) const {
        return reinterpret_cast<T*>(arguments.state + offset);
    }
    __device__ __forceinline__ OgMailbox& mailbox() const { return *reinterpret_cast<OgMailbox*>(arguments.mailbox); }
    // Of the control block, what each block has a copy of.
    static constexpr uint32_t CONTROL_WORDS = offsetof(OgControl, news) / 4;
    __device__ __forceinline__ uint32_t* control_in_state() const { return state<uint32_t>(at.control); }
    __device__ __forceinline__ OgNews& news() const { return state<OgControl>(at.control)->news; }

    __device__ __forceinline__ uint32_t columns() const { return shared.control.columns; }
    __device__ __forceinline__ uint32_t q_size() const { return model.heads * model.head_dim; }
    __device__ __forceinline__ uint32_t kv_size() const { return model.kv_heads * model.head_dim; }
    __device__ __forceinline__ uint32_t qkv_size() const { return q_size() + 2 * kv_size(); }
    __device__ __forceinline__ uint32_t group_size() const { return model.heads / model.kv_heads; }

    // Whether this thread is the one that writes what the grid writes once.
    __device__ __forceinline__ bool is_first_thread() const { return index == 0 && thread == 0; }

    // An even share of `count` things for each block, in order.
    __device__ __forceinline__ Share even_share(uint32_t count) const {
        const uint64_t first = static_cast<uint64_t>(count) * index / blocks;
        const uint64_t end = static_cast<uint64_t>(count) * (index + 1) / blocks;
        return {static_cast<uint32_t>(first), static_cast<uint32_t>(end - first)};
    }

    // How many rows of `all` the groups of `share` hold.
    __device__ __forceinline__ static uint32_t rows_of(const Share& share, uint32_t all) {
        const uint32_t first = share.first * OG_GROUP_ROWS;
        return min(share.count * OG_GROUP_ROWS, all - min(first, all));
    }

    // Takes over the arguments, the control block, and this block's shares of every product. Ends with all
    // threads in step.
    __device__ __forceinline__ void begin(const OgArguments& given) const {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(&given);
#pragma unroll 1
        for (uint32_t i = thread; i < sizeof(OgArguments) / 4; i += threads) {
            reinterpret_cast<uint32_t*>(&shared.arguments)[i] = words[i];
        }
        BLOCK_SYNC();
        const uint32_t* from = control_in_state();
        uint32_t* to = reinterpret_cast<uint32_t*>(&shared.control);
#pragma unroll 1
        for (uint32_t i = thread; i < CONTROL_WORDS; i += threads) to[i] = from[i];
        if (thread == 0) {
            const auto groups = [](uint32_t rows) { return (rows + OG_GROUP_ROWS - 1) / OG_GROUP_ROWS; };
            shared.share[OG_PHASE_QKV] = even_share(groups(qkv_size()));
            shared.share[OG_PHASE_OUTPUT] = even_share(groups(model.hidden));
            shared.share[OG_PHASE_GATE_UP] = even_share(model.intermediate);
            shared.share[OG_PHASE_DOWN] = even_share(groups(model.hidden));
            shared.share[OG_PHASE_HEAD] = even_share(groups(model.vocab));
        }
        BLOCK_SYNC();
    }

    // Leaves the control block to the host, or to the next kernel.
    __device__ void save_control() const {
        if (index != 0) return;
        const uint32_t* from = reinterpret_cast<const uint32_t*>(&shared.control);
        uint32_t* to = control_in_state();
#pragma unroll 1
        for (uint32_t i = thread; i < CONTROL_WORDS; i += threads) to[i] = from[i];
    }

    // Notes that norm `norm` met NaN or infinity in `column`; the first to do so stays. Called by the
    // first thread only; the others see it after the next barrier.
    __device__ void note_not_finite(uint32_t norm, uint32_t column) const {
        if (news().not_finite != OG_ALL_FINITE) return;
        news().not_finite = norm;
        news().not_finite_column = column;
    }

    // Derives runs and attention's tasks from the columns; `may_split` says whether the past of a
    // head may be divided. One thread.
    __device__ void plan_pass(uint32_t query_block, bool may_split) const {
        Pass& pass = shared.pass;
        pass.runs = 0;
        uint32_t query_blocks = 0;
#pragma unroll 1
        for (uint32_t c = 0; c < columns(); ++c) {
            if (c == 0 || shared.control.column[c].sequence != shared.control.column[c - 1].sequence) {
                Run& run = pass.run[pass.runs++];
                run.first = c;
                run.length = 0;
                run.past = shared.control.column[c].position;
            }
            ++pass.run[pass.runs - 1].length;
            pass.run_of[c] = pass.runs - 1;
        }
#pragma unroll 1
        for (uint32_t r = 0; r < pass.runs; ++r) {
            Run& run = pass.run[r];
            run.query_blocks = (run.length * group_size() + query_block - 1) / query_block;
            query_blocks += run.query_blocks;
        }
        // As many splits as keep every block busy once, none shorter than `split_length`.
        const uint32_t tasks = query_blocks * model.kv_heads;
        uint32_t most = may_split && tasks > 0 ? arguments.attention_blocks / tasks : 1;
        most = most < 1 ? 1 : most > OG_MAX_SPLITS ? OG_MAX_SPLITS : most;
        pass.tasks = 0;
#pragma unroll 1
        for (uint32_t r = 0; r < pass.runs; ++r) {
            Run& run = pass.run[r];
            const uint32_t useful = (run.past + arguments.split_length - 1) / arguments.split_length;
            run.splits = useful < 1 ? 1 : useful > most ? most : useful;
            run.split_length = (run.past + run.splits - 1) / run.splits;
            run.first_task = pass.tasks;
            pass.tasks += model.kv_heads * run.query_blocks * run.splits;
        }
    }
};
